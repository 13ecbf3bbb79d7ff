"""What is evaluated is the run's model: fp32 to the bit, bf16 as it is exported, no second copy on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import make_tokenizer
from family_rows import FACTS, VOCABULARY, make_base
from models import local
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from raysft.errors import CheckpointError
from raysft.model.export import export_run
from raysft.model.trained import load_trained, load_untrained

LORA = {"kind": "lora", "rank": 4, "alpha": 12.0, "target_modules": ["q_proj", "o_proj"]}


def load(directory: Path | str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype)
    return model


def trained_by_peft(base: Path) -> tuple[Any, dict[str, Tensor]]:
    targets = ["q_proj", "o_proj"]
    model = get_peft_model(load(base), LoraConfig(r=4, lora_alpha=12, target_modules=targets, task_type="CAUSAL_LM"))
    torch.manual_seed(2)
    weights = {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(0.3 * torch.randn_like(parameter))
                weights[name] = parameter.detach().clone()
    return model, weights


def assert_same(ours: nn.Module, theirs: nn.Module) -> None:
    for kind in ("named_parameters", "named_buffers"):
        a, b = (dict(getattr(module, kind)()) for module in (ours, theirs))
        assert a.keys() == b.keys()
        for name, tensor in a.items():
            assert tensor.dtype == b[name].dtype, name
            assert torch.equal(tensor, b[name]), name


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.eval()(input_ids=torch.arange(20)[None]).logits
    return found


@pytest.mark.parametrize("model_type", ["llama", "gemma", "mixtral"])
def test_in_fp32_it_is_what_peft_merges_to_the_bit(tmp_path: Path, model_type: str) -> None:
    make_base(model_type, tmp_path)
    theirs, weights = trained_by_peft(tmp_path)
    ours = load_trained(local(tmp_path, method=LORA), weights, vocab_size=VOCABULARY)
    merged = theirs.merge_and_unload()
    assert_same(ours, merged)
    assert torch.equal(logits(ours), logits(merged))


@pytest.mark.parametrize("model_type", ["llama", "deepseek_v3"])
def test_in_bf16_it_is_what_is_exported(tmp_path: Path, model_type: str) -> None:
    """Buffers that transformers keeps in fp32 too."""
    make_base(model_type, tmp_path / "base")
    torch.manual_seed(3)
    weights = {name: torch.randn_like(p) for name, p in load(tmp_path / "base").named_parameters()}
    recipe = local(tmp_path / "base", train={"precision": "bf16"})
    ours = load_trained(recipe, weights, vocab_size=VOCABULARY)
    (merged,) = export_run(recipe, weights, make_tokenizer(), out=str(tmp_path / "e"), card=FACTS)
    assert_same(ours, load(merged, torch.bfloat16))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["full", "lora", "dora"])
def test_before_training_it_is_the_base(tmp_path: Path, kind: str, precision: str) -> None:
    make_base("qwen3", tmp_path)
    recipe = local(tmp_path, method={"kind": kind}, train={"precision": precision})
    ours = load_untrained(recipe, vocab_size=VOCABULARY)
    assert_same(ours, load(tmp_path, {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_made_whole_has_the_same_precision(tmp_path: Path, precision: str) -> None:
    make_base("hrm_text", tmp_path)
    recipe = local(tmp_path, train={"precision": precision})
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    base = load(tmp_path)
    weights = {name: parameter.detach() for name, parameter in base.named_parameters()}
    for ours in (
        load_untrained(recipe, vocab_size=VOCABULARY),
        load_trained(recipe, weights, vocab_size=VOCABULARY),
    ):
        assert_same(ours, load(tmp_path, dtype))


@pytest.mark.parametrize("what", ["another shape", "no trained parameter", "have no weight"])
def test_weights_of_another_model_are_told(tmp_path: Path, what: str) -> None:
    make_base("llama", tmp_path)
    weights = trained_by_peft(tmp_path)[1]
    first = next(iter(weights))
    if what == "another shape":
        weights[first] = weights[first][:-1]
    elif what == "no trained parameter":
        weights["model.extra"] = torch.zeros(3)
    else:
        del weights[first]
    with pytest.raises(CheckpointError, match=what) as caught:
        load_trained(local(tmp_path, method=LORA), weights, vocab_size=VOCABULARY)
    assert caught.value.fix
