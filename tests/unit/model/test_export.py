"""What is exported loads in plain transformers and peft and computes the same; nothing torn, nothing doubled."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from fakes import LLAMA, make_recipe, make_tokenizer
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from raysft.errors import CheckpointError
from raysft.model.card import CardFacts
from raysft.model.export import export_run
from raysft.recipe.schema import Recipe

FACTS = CardFacts(
    steps=7,
    train_samples=40,
    train_tokens=5000,
    train_target_tokens=1234,
    fingerprints={"data": "d" * 16, "mathematics": "m" * 16, "execution": "e" * 16},
    before={"held_out": {"metrics": {"loss": {"value": 5.5}, "exact_match": {"value": 0.0}}}},
    after={
        "held_out": {
            "metrics": {"loss": {"value": 0.25}, "exact_match": {"value": 0.975, "low": 0.91, "high": 0.99}}
        },
        "dev": {"metrics": {"perplexity": {"value": 1.284}}},
    },
)
IDS = torch.arange(20).reshape(2, 10)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory made by transformers alone."""
    directory = tmp_path_factory.mktemp("base") / "my-base"
    torch.manual_seed(3)
    fields = {k: v for k, v in LLAMA.items() if k != "model_type"}
    model = LlamaForCausalLM(LlamaConfig(**fields, vocab_size=264))
    model.generation_config.eos_token_id = 263
    model.save_pretrained(directory)
    return directory


def trained_full(base: Path) -> tuple[LlamaForCausalLM, list[tuple[str, Tensor]]]:
    """The base with every weight changed, and its parameters by name."""
    torch.manual_seed(4)
    model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model, [(name, p.detach().clone()) for name, p in model.named_parameters()]


def trained_lora(base: Path) -> tuple[PeftModel, list[tuple[str, Tensor]]]:
    """The base with a random adapter, by peft alone, and the adapter's parameters by name."""
    torch.manual_seed(5)
    inner = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = get_peft_model(
        inner, LoraConfig(r=4, lora_alpha=12, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    )
    weights = []
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(0.3 * torch.randn_like(parameter))
                weights.append((name, parameter.detach().clone()))
    return model.eval(), weights


def full_recipe(base: Path, **sections: Any) -> Recipe:
    return make_recipe(model={"source": str(base), "config": None, "tokenizer": None}, **sections)


def lora_recipe(base: Path, **sections: Any) -> Recipe:
    method = {"kind": "lora", "rank": 4, "alpha": 12.0, "target_modules": ["q_proj", "down_proj"]}
    return full_recipe(base, method=method, **sections)


def logits(model: torch.nn.Module) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.eval()(input_ids=IDS).logits.float()
    return found


def test_a_full_export_loads_in_transformers_with_the_trained_weights(base: Path, tmp_path: Path) -> None:
    model, weights = trained_full(base)
    out = str(tmp_path / "export")
    locations = export_run(full_recipe(base), iter(weights), make_tokenizer(), out=out, card=FACTS)
    assert locations == [f"{out}/merged"]
    loaded = AutoModelForCausalLM.from_pretrained(locations[0])
    assert loaded.dtype == torch.float32
    assert torch.equal(logits(loaded), logits(model))
    assert not torch.allclose(logits(loaded), logits(AutoModelForCausalLM.from_pretrained(base)), atol=1e-2)
    config = json.loads(Path(locations[0], "config.json").read_text())
    assert config["use_cache"] is True
    assert config["dtype"] == "float32"


def test_bf16_runs_are_exported_in_bf16(base: Path, tmp_path: Path) -> None:
    model, weights = trained_full(base)
    recipe = full_recipe(base, train={"precision": "bf16"})
    (location,) = export_run(recipe, iter(weights), make_tokenizer(), out=str(tmp_path / "e"), card=FACTS)
    loaded = AutoModelForCausalLM.from_pretrained(location)
    assert loaded.dtype == torch.bfloat16
    for name, parameter in model.named_parameters():
        assert torch.equal(loaded.get_parameter(name), parameter.to(torch.bfloat16)), name


def test_merged_and_adapter_compute_what_the_trained_model_computes(base: Path, tmp_path: Path) -> None:
    model, weights = trained_lora(base)
    expected = logits(model)
    adapter, merged = export_run(
        lora_recipe(base), iter(weights), make_tokenizer(), out=str(tmp_path / "e"), card=FACTS
    )
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    assert not torch.allclose(logits(plain), expected, atol=1e-2)
    adapted = PeftModel.from_pretrained(plain, adapter)
    assert torch.equal(logits(adapted), expected)
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(merged)), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("merged", "adapter"), [(True, False), (False, True)])
def test_only_the_parts_asked_for_are_written(base: Path, tmp_path: Path, merged: bool, adapter: bool) -> None:
    recipe = lora_recipe(base, export={"merged": merged, "adapter": adapter})
    export_run(recipe, iter(trained_lora(base)[1]), make_tokenizer(), out=str(tmp_path / "e"), card=FACTS)
    assert (tmp_path / "e/merged/model.safetensors").exists() == merged
    assert (tmp_path / "e/adapter/adapter_model.safetensors").exists() == adapter


def test_nothing_is_pickled_and_the_manifest_lists_every_file(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "e"
    export_run(lora_recipe(base), iter(trained_lora(base)[1]), make_tokenizer(), out=str(out), card=FACTS)
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pth", ".pkl"))]
    listed = {entry["name"] for entry in json.loads((out / "export.json").read_text())["files"]}
    assert listed == files - {"export.json"}
    assert sorted(path.name for path in out.iterdir()) == ["adapter", "export.json", "merged"]


def test_the_tokenizer_and_its_template_travel_with_the_model(base: Path, tmp_path: Path) -> None:
    (location,) = export_run(
        full_recipe(base), iter(trained_full(base)[1]), make_tokenizer(), out=str(tmp_path / "e"), card=FACTS
    )
    tokenizer = AutoTokenizer.from_pretrained(location)
    text = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert text == "<|im_start|>user\nhi<|im_end|>\n"
    assert tokenizer("hé<|im_end|>")["input_ids"] == make_tokenizer()("hé<|im_end|>")["input_ids"]


def test_generation_ends_at_the_end_of_text_of_the_turn_and_at_what_the_base_stated(
    base: Path, tmp_path: Path
) -> None:
    tokenizer = make_tokenizer()
    end_of_turn = tokenizer.convert_tokens_to_ids("<|im_end|>")
    (location,) = export_run(
        full_recipe(base),
        iter(trained_full(base)[1]),
        tokenizer,
        out=str(tmp_path / "e"),
        card=FACTS,
        stops=[end_of_turn],
    )
    generation = json.loads(Path(location, "generation_config.json").read_text())
    assert generation["eos_token_id"] == sorted([tokenizer.eos_token_id, end_of_turn, 263])
    assert generation["pad_token_id"] == tokenizer.pad_token_id
    assert generation["use_cache"] is True


def test_a_fresh_model_forgets_the_token_ids_of_its_config_class(tmp_path: Path) -> None:
    recipe, tokenizer = make_recipe(), make_tokenizer()
    model = LlamaForCausalLM(
        LlamaConfig(**{k: v for k, v in LLAMA.items() if k != "model_type"}, vocab_size=len(tokenizer))
    )
    weights = [(name, p.detach()) for name, p in model.named_parameters()]
    (location,) = export_run(recipe, iter(weights), tokenizer, out=str(tmp_path / "e"), card=FACTS)
    loaded = AutoModelForCausalLM.from_pretrained(location)
    assert torch.equal(logits(loaded), logits(model))
    assert loaded.config.eos_token_id == tokenizer.eos_token_id  # LlamaConfig says 2, which is "#" here
    assert 2 not in loaded.generation_config.eos_token_id


def explode() -> Iterator[tuple[str, Tensor]]:
    raise AssertionError("the weights were read")
    yield


def test_a_second_call_does_nothing_and_a_damaged_file_is_made_again(base: Path, tmp_path: Path) -> None:
    _, weights = trained_full(base)
    recipe, tokenizer, out = full_recipe(base), make_tokenizer(), tmp_path / "e"
    export_run(recipe, iter(weights), tokenizer, out=str(out), card=FACTS)
    before = (out / "merged/model.safetensors").stat()
    export_run(recipe, explode(), tokenizer, out=str(out), card=FACTS)
    assert (out / "merged/model.safetensors").stat().st_mtime_ns == before.st_mtime_ns
    data = bytearray((out / "merged/model.safetensors").read_bytes())
    position = random.Random(0).randrange(len(data))
    data[position] ^= 1
    (out / "merged/model.safetensors").write_bytes(data)
    export_run(recipe, iter(weights), tokenizer, out=str(out), card=FACTS)
    data[position] ^= 1
    assert (out / "merged/model.safetensors").read_bytes() == bytes(data)


def test_weights_of_other_steps_are_exported_anew(base: Path, tmp_path: Path) -> None:
    _, weights = trained_full(base)
    recipe, tokenizer, out = full_recipe(base), make_tokenizer(), str(tmp_path / "e")
    export_run(recipe, iter(weights), tokenizer, out=out, card=FACTS)
    later = CardFacts(**{**FACTS.__dict__, "steps": 8})
    with pytest.raises(AssertionError, match="weights were read"):
        export_run(recipe, explode(), tokenizer, out=out, card=later)


def test_a_failure_leaves_no_export_behind(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "e"
    with pytest.raises(CheckpointError):
        export_run(full_recipe(base), iter(trained_full(base)[1][:-1]), make_tokenizer(), out=str(out), card=FACTS)
    assert not out.exists() or not list(out.iterdir())


def test_what_a_killed_export_left_is_cleared(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "e"
    (out / ".export-dead/merged").mkdir(parents=True)
    (out / "merged").mkdir()  # published, but its manifest was not written any more
    (out / "merged/half.safetensors").write_text("")
    export_run(full_recipe(base), iter(trained_full(base)[1]), make_tokenizer(), out=str(out), card=FACTS)
    assert sorted(path.name for path in out.iterdir()) == ["export.json", "merged"]
    assert not (out / "merged/half.safetensors").exists()


def test_a_uri_takes_an_export(base: Path, tmp_path: Path) -> None:
    import fsspec

    out = f"memory://{tmp_path.name}/export"
    (location,) = export_run(full_recipe(base), iter(trained_full(base)[1]), make_tokenizer(), out=out, card=FACTS)
    assert location == f"{out}/merged"
    names = {Path(name).name for name in fsspec.filesystem("memory").ls(location, detail=False)}
    assert {"model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja", "README.md"} <= names
    export_run(full_recipe(base), explode(), make_tokenizer(), out=out, card=FACTS)


def test_missing_unknown_doubled_and_misshapen_weights_are_errors(base: Path, tmp_path: Path) -> None:
    _, weights = trained_full(base)
    wrong = {
        "model.norm.weight": weights[:-2] + weights[-1:],
        "no trained parameter": [*weights, ("model.extra.weight", torch.zeros(3))],
        "given twice": [*weights, weights[0]],
        "another shape": [(weights[0][0], weights[0][1][:-1]), *weights[1:]],
    }
    for text, given in wrong.items():
        with pytest.raises(CheckpointError) as caught:
            export_run(full_recipe(base), iter(given), make_tokenizer(), out=str(tmp_path / "e"), card=FACTS)
        assert text in str(caught.value)
        assert caught.value.fix


def test_full_weights_do_not_fit_a_lora_recipe(base: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no trained parameter"):
        export_run(
            lora_recipe(base), iter(trained_full(base)[1]), make_tokenizer(), out=str(tmp_path / "e"), card=FACTS
        )


def test_the_card_names_recipe_data_results_and_versions_but_nothing_of_the_machine(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    out = tmp_path / "e"
    recipe = lora_recipe(base, storage=str(tmp_path))
    export_run(recipe, iter(trained_lora(base)[1]), make_tokenizer(), out=str(out), card=FACTS)
    for part, library in (("merged", "transformers"), ("adapter", "peft")):
        card = (out / part / "README.md").read_text()
        _, front, body = card.split("---\n", 2)
        assert yaml.safe_load(front)["library_name"] == library
        for text in (
            "tiny",
            "`my-base`",
            "d" * 16,
            "m" * 16,
            "5.5000",
            "0.2500",
            "97.5%",
            "1,234",
            torch.__version__,
        ):
            assert text in body, text
        assert torch.__version__ in body
        assert "verysecret" not in card
        assert str(tmp_path) not in card
        assert str(base.parent) not in card
    assert "PeftModel.from_pretrained" in (out / "adapter/README.md").read_text()
