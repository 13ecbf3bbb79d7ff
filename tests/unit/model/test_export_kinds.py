"""Exports of bases that differ from the plain ones: tied heads, weights kept in fp32, odd generation configs, files
of processors, several templates."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import LLAMA, make_recipe, make_tokenizer
from families import TIED
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from raysft.model.card import CardFacts
from raysft.model.export import export_run
from raysft.model.generation import saveable
from raysft.recipe.schema import Recipe

FACTS = CardFacts(1, 1, 1, 1, dict.fromkeys(("data", "mathematics", "execution"), "f" * 16), {}, {})
IDS = torch.arange(20).reshape(2, 10)
DEEPSEEK = {
    "model_type": "deepseek_v3",
    "hidden_size": 32,
    "intermediate_size": 48,
    "moe_intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 0,
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
    "max_position_embeddings": 64,
}


def make_base(directory: Path, fields: dict[str, Any]) -> Path:
    """A model directory made by transformers alone."""
    torch.manual_seed(3)
    fields = dict(fields) | {"vocab_size": 264, "initializer_range": 0.2}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(fields.pop("model_type"), **fields))
    for name, buffer in model.named_buffers():
        if "e_score_correction_bias" in name:
            buffer.copy_(8 + torch.rand_like(buffer) / 100)
    model.save_pretrained(directory)
    return directory


def recipe_of(base: Path, **sections: Any) -> Recipe:
    return make_recipe(model={"source": str(base), "config": None, "tokenizer": None}, **sections)


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.eval()(input_ids=IDS).logits.float()
    return found


@pytest.mark.parametrize("targets", [["lm_head"], ["embed_tokens"], ["q_proj", "embed_tokens", "lm_head"]])
def test_adapters_of_a_tied_head_are_exported_as_they_were_trained(tmp_path: Path, targets: list[str]) -> None:
    base = make_base(tmp_path / "base", TIED)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    trained = get_peft_model(plain, LoraConfig(r=4, lora_alpha=12, target_modules=targets, task_type="CAUSAL_LM"))
    weights = []
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(0.3 * torch.randn_like(parameter))
                weights.append((name, parameter.detach().clone()))
    expected = logits(trained)
    recipe = recipe_of(base, method={"kind": "lora", "rank": 4, "alpha": 12.0, "target_modules": targets})
    adapter, merged = export_run(recipe, iter(weights), make_tokenizer(), out=str(tmp_path / "e"), card=FACTS)
    found = AutoModelForCausalLM.from_pretrained(merged)
    torch.testing.assert_close(logits(found), expected, atol=1e-4, rtol=1e-5)
    assert found.config.tie_word_embeddings is False
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter)
    torch.testing.assert_close(logits(again), expected, atol=1e-4, rtol=1e-5)


def test_a_bf16_export_keeps_in_fp32_what_transformers_would(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", DEEPSEEK)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    weights = [(name, p.detach().clone()) for name, p in model.named_parameters()]
    recipe = recipe_of(base, train={"precision": "bf16"})
    (merged,) = export_run(recipe, iter(weights), make_tokenizer(), out=str(tmp_path / "e"), card=FACTS)
    ours, theirs = (AutoModelForCausalLM.from_pretrained(d, dtype=torch.bfloat16) for d in (merged, base))
    expected = dict(theirs.state_dict())
    assert {str(tensor.dtype) for tensor in expected.values()} == {"torch.bfloat16", "torch.float32"}
    for name, tensor in ours.state_dict().items():
        assert tensor.dtype == expected[name].dtype, name
        assert torch.equal(tensor, expected[name]), name
    assert torch.equal(logits(ours), logits(theirs))


SAMPLING = {"temperature": 0.6, "top_p": 0.9}
GENERATION = {
    "sampling without do_sample": (SAMPLING, SAMPLING | {"do_sample": True}),
    "sampling with it": (SAMPLING | {"do_sample": True}, SAMPLING | {"do_sample": True}),
    "sampling flags that are switched off": (SAMPLING | {"do_sample": False}, {"do_sample": False}),
    "beam flags without beams": ({"length_penalty": 2.0, "max_new_tokens": 5}, {"max_new_tokens": 5}),
    "a token that cannot be": ({"pad_token_id": -1, "eos_token_id": [2, 3]}, {"eos_token_id": [2, 3]}),
    "nothing": ({}, {}),
}


@pytest.mark.parametrize("kind", GENERATION)
def test_what_a_base_says_of_generation_is_kept_in_a_form_that_saves(kind: str, tmp_path: Path) -> None:
    given, expected = GENERATION[kind]
    kept = saveable(GenerationConfig.from_dict(given))
    kept.save_pretrained(tmp_path)
    read = json.loads((tmp_path / "generation_config.json").read_text())
    assert {name: value for name, value in read.items() if name != "transformers_version"} == expected


def test_a_base_with_sampling_flags_and_no_do_sample_is_exported(tmp_path: Path) -> None:
    """As Llama 2 Chat was published."""
    base = make_base(tmp_path / "base", LLAMA)
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": 2, "max_length": 4096, **SAMPLING}))
    model = AutoModelForCausalLM.from_pretrained(base)
    weights = [(name, p.detach()) for name, p in model.named_parameters()]
    (merged,) = export_run(recipe_of(base), iter(weights), make_tokenizer(), out=str(tmp_path / "e"), card=FACTS)
    found = json.loads(Path(merged, "generation_config.json").read_text())
    assert {name: found[name] for name in ("temperature", "top_p", "do_sample", "max_length")} == {
        **SAMPLING,
        "do_sample": True,
        "max_length": 4096,
    }
    assert 2 in found["eos_token_id"]


def test_processors_templates_and_the_usual_file_mode(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", LLAMA)
    processors = {"preprocessor_config.json": '{"size": 3}', "processor_config.json": '{"image_seq_length": 4}'}
    for name, text in processors.items():
        (base / name).write_text(text)
    tokenizer = make_tokenizer()
    templates = {"default": "{{ messages }}", "tool_use": "{{ tools }}", "rag": "{{ documents }}"}
    tokenizer.chat_template = templates
    model = AutoModelForCausalLM.from_pretrained(base)
    weights = [(name, p.detach()) for name, p in model.named_parameters()]
    before = os.umask(0o027)
    try:
        (merged,) = export_run(recipe_of(base), iter(weights), tokenizer, out=str(tmp_path / "e"), card=FACTS)
    finally:
        os.umask(before)
    assert {name: Path(merged, name).read_text() for name in processors} == processors
    assert AutoTokenizer.from_pretrained(merged).chat_template == templates
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in Path(merged).rglob("*") if path.is_file()}
    assert "model.safetensors" in modes
    assert set(modes.values()) == {"0o640"}, modes
    assert load_file(Path(merged, "model.safetensors"))
