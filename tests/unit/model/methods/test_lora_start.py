"""Beginnings of LoRA that are computed: the base's function at first, an adapter that plain peft loads, a merge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from exports import FACTS, logits, write_base
from fakes import make_recipe, make_tokenizer
from families import GPT2, LLAMA
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM

from raysft.errors import ModelError, RecipeError
from raysft.model.export import export_run
from raysft.model.load import load_model
from raysft.model.methods import apply_method, kept_parameters, set_start, start_tensors
from raysft.model.rehearsal import rehearse
from raysft.recipe.model_checks import check_method
from raysft.recipe.schema import Recipe
from raysft.recipe.traits import method_of

FAMILIES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "llama": (LLAMA, ["all-linear"]),
    "gpt2": (GPT2, ["c_attn", "mlp.c_proj"]),
}


def recipe_of(base: Path, targets: list[str], **method: Any) -> Recipe:
    return make_recipe(
        model={"source": str(base), "config": None, "tokenizer": None},
        method={"kind": "lora", "rank": 4, "alpha": 8.0, "target_modules": targets, **method},
    )


def begun(recipe: Recipe) -> nn.Module:
    module = apply_method(load_model(recipe, vocab_size=264), recipe)
    set_start(module, start_tensors(module, recipe.method, {}))
    return module


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("init", "rslora"), [("pissa", False), ("olora", True)])
def test_an_export_computes_what_was_trained_and_peft_loads_it_on_the_untouched_base(
    tmp_path: Path, family: str, init: str, rslora: bool
) -> None:
    fields, targets = FAMILIES[family]
    ranks = {"mlp.c_proj" if family == "gpt2" else "down_proj": 6}
    recipe = recipe_of(write_base(tmp_path, fields), targets, init=init, rslora=rslora, ranks=ranks)
    assert any(line.startswith("trained") for line in rehearse(recipe, make_tokenizer()))
    plain = AutoModelForCausalLM.from_pretrained(recipe.model.source, dtype=torch.float32)
    module = begun(recipe)
    torch.testing.assert_close(logits(module), logits(plain), atol=1e-5, rtol=1e-5)
    trained = {name for name, p in module.named_parameters() if p.requires_grad}
    assert all(".default." in name for name in trained)
    model = AutoModelForCausalLM.from_pretrained(recipe.model.source, dtype=torch.float32)
    names: Any = "all-linear" if family == "llama" else targets
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=names, use_rslora=rslora, init_lora_weights=init, rank_pattern=ranks
    )
    theirs = get_peft_model(model, config) if (family, init) != ("gpt2", "olora") else None  # not on Conv1D in 0.21.2
    torch.manual_seed(6)
    with torch.no_grad():
        for name in sorted(trained):
            step = 0.1 * torch.randn_like(module.get_parameter(name))
            module.get_parameter(name).add_(step)
            if theirs is not None:
                theirs.get_parameter(name).add_(step)  # the rest of the weight lies in its layers
    expected = logits(module)
    if theirs is not None:
        torch.testing.assert_close(expected, logits(theirs), atol=1e-4, rtol=1e-4)
    held = {name: module.get_parameter(name).detach().clone() for name in (*trained, *kept_parameters(module))}
    adapter, merged = export_run(recipe, iter(held.items()), make_tokenizer(), out=str(tmp_path / "e"), card=FACTS)
    assert not torch.allclose(logits(plain), expected, atol=1e-2)
    torch.testing.assert_close(logits(PeftModel.from_pretrained(plain, adapter)), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(merged)), expected, atol=1e-4, rtol=1e-4)


def test_what_it_does_not_go_with_is_refused(tmp_path: Path) -> None:
    recipe = recipe_of(write_base(tmp_path, LLAMA), ["embed_tokens"], init="pissa")
    with pytest.raises(ModelError, match="weights of linear layers"):
        apply_method(load_model(recipe, vocab_size=264), recipe)
    recipe = recipe_of(tmp_path / "base", ["k_proj"], init="olora", rank=17)
    with pytest.raises(ModelError, match="no more directions") as caught:
        apply_method(load_model(recipe, vocab_size=264), recipe)
    assert caught.value.expected == "at most 16"
    with pytest.raises(RecipeError, match="rows of the training data"):
        check_method(
            make_recipe(method={"kind": "lora", "init": "eva"}, data={"mode": "stream"}, train={"max_steps": 3})
        )
    tuned = make_recipe(method={"kind": "lora", "init": "olora"})
    assert method_of(tuned).computed_start(tuned.method)
