"""Full tuning trains all that a text passes; adapters train nothing else."""

from __future__ import annotations

from pathlib import Path

from models import local
from transformers import LlamaForCausalLM

from raysft.model.load import load_model
from raysft.model.methods import apply_method, base_model, is_adapted


def test_full_trains_everything_and_lora_only_its_adapters(directory: Path) -> None:
    full = apply_method(load_model(local(directory), vocab_size=50), local(directory))
    assert all(p.requires_grad for p in full.parameters())
    assert not is_adapted(full)
    recipe = local(directory, method={"kind": "lora", "rank": 3, "target_modules": ["q_proj"]})
    lora = apply_method(load_model(recipe, vocab_size=50), recipe)
    shapes = {name: tuple(p.shape) for name, p in lora.named_parameters() if p.requires_grad}
    assert sorted(shapes.values()) == [(3, 32)] * 2 + [(32, 3)] * 2
    assert all("q_proj.lora_" in name for name in shapes)
    assert is_adapted(lora)
    assert isinstance(base_model(lora), LlamaForCausalLM)
