"""Which files of a model source are read: nothing pickled, nothing elsewhere, no adapter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import LLAMA, make_recipe
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from raysft.errors import ModelError
from raysft.evaluate.exported import load_exported
from raysft.model.facts import read_facts
from raysft.model.files import check_weights
from raysft.model.load import load_model
from raysft.recipe.schema import Recipe


def make_llama() -> LlamaForCausalLM:
    return LlamaForCausalLM(LlamaConfig(**{k: v for k, v in LLAMA.items() if k != "model_type"}, vocab_size=50))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Two shards and their index."""
    make_llama().save_pretrained(tmp_path / "model", max_shard_size="20KB")
    return tmp_path / "model"


def local(source: Path) -> Recipe:
    return make_recipe(model={"source": str(source), "config": None, "tokenizer": None})


class Trap:
    """Unpickling it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def change_index(directory: Path, change: Any) -> None:
    path = directory / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"] = {name: change(file) for name, file in index["weight_map"].items()}
    path.write_text(json.dumps(index))


def test_shards_below_the_directory_are_read(directory: Path) -> None:
    check_weights(local(directory))
    assert load_model(local(directory), vocab_size=50).get_parameter("lm_head.weight").shape == (50, 32)


CHANGES = {
    "a pickled shard": lambda file: "pytorch_model.bin",
    "a pickled shard of another name": lambda file: "weights.pt",
    "a shard outside": lambda file: f"../{file}",
    "an absolute shard": lambda file: f"/tmp/{file}",
    "a shard through a folder": lambda file: f"sub/../../{file}",
}


@pytest.mark.parametrize("kind", CHANGES)
def test_an_index_that_names_other_files_is_refused_everywhere(kind: str, directory: Path) -> None:
    change_index(directory, CHANGES[kind])
    trap = directory.parent / "sprung"
    for name in ("pytorch_model.bin", "weights.pt"):
        torch.save({"model.norm.weight": Trap(trap)}, directory / name)
    for use in (check_weights, read_facts, lambda recipe: load_model(recipe, vocab_size=50)):
        with pytest.raises(ModelError, match="names weights that are not loaded"):
            use(local(directory))
    with pytest.raises(ModelError, match="names weights that are not loaded"):
        load_exported(str(directory))
    assert not trap.exists()


@pytest.mark.parametrize("name", ["adapter_model.bin", "pytorch_model.bin.index.json", 7])
def test_a_config_that_names_other_weights_is_refused(name: object, directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "transformers_weights": name}))
    with pytest.raises(ModelError, match="names weights that are not loaded"):
        check_weights(local(directory))


@pytest.mark.parametrize("text", ["{", "[]", "\x00", '{"weight_map": 3}', "[" * 100_000])
def test_a_torn_index_is_told_as_such(text: str, directory: Path) -> None:
    (directory / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ModelError):
        check_weights(local(directory))


def test_an_adapter_directory_says_what_would_work(tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    get_peft_model(make_llama(), LoraConfig(target_modules=["q_proj"])).save_pretrained(adapter)
    for place in (adapter, tmp_path / "both"):
        make_llama().save_pretrained(tmp_path / "both")
        (tmp_path / "both/adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')
        with pytest.raises(ModelError, match="is an adapter, or has one in it") as caught:
            read_facts(local(place))
        assert "merge_and_unload" in caught.value.fix
        assert "run://" in caught.value.fix
    assert "org/base" in caught.value.got
