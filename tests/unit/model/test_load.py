"""Models and facts from recipes: what is read, what is refused, what is seeded."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from fakes import LLAMA, make_recipe
from models import local
from safetensors.torch import load_file, save_file

from raysft.errors import ModelError
from raysft.model.facts import read_facts
from raysft.model.files import model_location
from raysft.model.load import load_model


def test_facts_come_from_the_config_alone(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    facts = read_facts(local(directory))
    assert (facts.model_type, facts.num_layers, facts.hidden_size) == ("llama", 2, 32)
    assert (facts.vocab_size, facts.max_tokens) == (50, 128)


def test_gpt2_names_its_sizes_differently() -> None:
    config = {"model_type": "gpt2", "n_embd": 24, "n_layer": 3, "n_head": 2, "n_positions": 99, "vocab_size": 11}
    facts = read_facts(make_recipe(model={"source": "random", "config": config, "tokenizer": "t"}))
    assert (facts.num_layers, facts.hidden_size, facts.vocab_size, facts.max_tokens) == (3, 24, 11, 99)


def test_a_model_is_loaded_in_fp32_with_the_files_weights(directory: Path) -> None:
    model = load_model(local(directory), vocab_size=50)
    stored = load_file(directory / "model.safetensors")
    assert model.dtype == torch.float32
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, stored[name].float()), name
    assert model.config.use_cache is False


def test_fresh_weights_follow_the_seed_and_leave_the_generator_alone() -> None:
    state = torch.get_rng_state()
    weights = [
        load_model(make_recipe(seed=seed), vocab_size=70).get_parameter("lm_head.weight") for seed in (1, 1, 2)
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert weights[0].shape == (70, 32)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_missing_model_names_its_nearest_neighbour(directory: Path) -> None:
    with pytest.raises(ModelError, match="cannot read the model") as caught:
        read_facts(local(directory.parent / "model-b"))
    assert "model-a" in str(caught.value)


def test_a_directory_without_weights_is_an_error(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot load the model") as caught:
        load_model(local(directory), vocab_size=50)
    assert "safetensors" in str(caught.value)


def test_pickled_weights_are_not_loaded(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    torch.save({"lm_head.weight": torch.zeros(2)}, directory / "pytorch_model.bin")
    with pytest.raises(ModelError, match="cannot load the model"):
        load_model(local(directory), vocab_size=50)


def test_a_tokenizer_with_more_tokens_than_the_model_is_an_error(directory: Path) -> None:
    with pytest.raises(ModelError, match="more tokens than the model"):
        load_model(local(directory), vocab_size=51)


@pytest.mark.parametrize("config", [{"model_type": "no-such"}, {"hidden_size": 3}])
def test_a_config_that_is_none_is_an_error(config: dict[str, object]) -> None:
    with pytest.raises(ModelError, match=r"model\.config is not"):
        read_facts(make_recipe(model={"source": "random", "config": config, "tokenizer": "t"}))


def test_another_run_is_a_model_source_once_it_is_exported(directory: Path, tmp_path: Path) -> None:
    recipe = local("run://first", storage=str(tmp_path / "storage"))
    with pytest.raises(ModelError, match="'first' has no exported model"):
        model_location(recipe)
    place = tmp_path / "storage/runs/first/export/merged"
    shutil.copytree(directory, place)
    with pytest.raises(ModelError, match="'first' has no exported model"):
        model_location(recipe)  # its manifest, written last, is not there yet
    (place.parent / "export.json").write_text("{}")
    assert model_location(recipe) == str(place)
    assert read_facts(recipe).vocab_size == 50


def test_a_model_directory_with_a_tensor_missing_or_damaged_is_refused(directory: Path) -> None:
    """transformers would fill the gap with random numbers and a warning."""
    weights = load_file(directory / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="cannot load") as refused:
        load_model(local(directory), vocab_size=50)
    assert "model.norm.weight" in refused.value.got
    (directory / "model.safetensors").write_bytes(b"\x08" + b"\0" * 40)
    with pytest.raises(ModelError, match="cannot load"):
        load_model(local(directory), vocab_size=50)


def test_a_config_with_a_wrong_type_is_refused() -> None:
    config = {**LLAMA, "hidden_size": "x"}
    with pytest.raises(ModelError, match="not a transformers config"):
        load_model(make_recipe(model={"source": "random", "config": config, "tokenizer": "t"}), vocab_size=50)
