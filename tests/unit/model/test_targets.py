"""Which layers adapters go to, and which never get one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import LLAMA, make_tokenizer
from families import tiny_fields
from models import fresh, local
from transformers import AutoConfig, AutoModelForCausalLM

from raysft.errors import ModelError
from raysft.model.methods import apply_method
from raysft.model.rehearsal import rehearse

LORA = {"kind": "lora", "rank": 4}


@pytest.mark.parametrize("model_type", ["phimoe", "llama4_text"])
def test_a_router_that_answers_more_than_a_product_gets_no_adapter(model_type: str) -> None:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**tiny_fields(model_type)))
    adapted = apply_method(model, fresh(model_type, LORA))
    assert any("q_proj.lora_A" in name for name, _ in adapted.named_parameters())
    assert not any("router.lora_" in name for name, _ in adapted.named_parameters())
    adapted(input_ids=torch.arange(8)[None])
    with pytest.raises(ModelError, match="fits no layer"):
        apply_method(model, fresh(model_type, LORA | {"target_modules": ["router"]}))


GEMMA3 = {
    "text_config": {**LLAMA, "model_type": "gemma3_text", "head_dim": 8, "vocab_size": 400},
    "vision_config": {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    },
    "mm_tokens_per_image": 4,
}


@pytest.mark.parametrize(
    "method", [{}, LORA, LORA | {"target_modules": ["q_proj"]}, LORA | {"target_modules": ["self_attn.q_proj"]}]
)
def test_towers_that_no_text_passes_stay_as_they_are(tmp_path: Path, method: dict[str, Any]) -> None:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gemma3", **GEMMA3))
    model.save_pretrained(tmp_path / "gemma3")
    recipe = local(tmp_path / "gemma3", method=method)
    lines = rehearse(recipe, make_tokenizer())
    assert {line.split()[2] for line in lines if line.startswith("not read")} == {
        "model.vision_tower:",
        "model.multi_modal_projector:",
    }
    module = apply_method(model, recipe)
    trained = [name for name, p in module.named_parameters() if p.requires_grad]
    assert trained
    assert not [name for name in trained if "vision" in name or "multi_modal" in name]
