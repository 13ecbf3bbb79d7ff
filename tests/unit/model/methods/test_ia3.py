"""IA3 from attaching to an export: what peft alone computes, on three families, and what is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from exports import FACTS, logits
from fakes import make_recipe, make_tokenizer
from families import GPT2, LLAMA, TIED
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM

from raysft.engine.parameters import undecayed
from raysft.errors import ModelError
from raysft.model.export import export_run
from raysft.model.load import load_model
from raysft.model.methods import apply_method
from raysft.model.shape import read_shape
from raysft.recipe.compatibility import cell_of, verdict
from raysft.recipe.schema import Recipe
from raysft.recipe.traits import METHODS, method_of

FAMILIES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "llama": (LLAMA, {}),
    "qwen3, tied": (TIED, {}),
    "gpt2": (GPT2, {"target_modules": ["c_attn", "mlp.c_proj"], "feedforward_modules": ["mlp.c_proj"]}),
}


def recipe_of(base: Path, **method: Any) -> Recipe:
    return make_recipe(
        model={"source": str(base), "config": None, "tokenizer": None}, method={"kind": "ia3", **method}
    )


@pytest.fixture(params=FAMILIES)
def recipe(request: pytest.FixtureRequest, tmp_path: Path) -> Recipe:
    """On a model directory made by transformers alone."""
    fields, method = FAMILIES[request.param]
    torch.manual_seed(3)
    config = AutoConfig.for_model(**fields, vocab_size=264, initializer_range=0.2, pad_token_id=0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    return recipe_of(tmp_path / "base", **method)


def test_scales_begin_at_one_do_not_decay_and_are_all_that_is_trained(recipe: Recipe) -> None:
    plain = AutoModelForCausalLM.from_pretrained(recipe.model.source, dtype=torch.float32)
    module = apply_method(load_model(recipe, vocab_size=264), recipe)
    assert torch.equal(logits(module), logits(plain))
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    assert all("ia3_l" in name and bool((p == 1).all()) for name, p in trained.items())
    assert set(trained.values()) <= undecayed(module)
    shape = read_shape(recipe)
    assert sum(p.numel() for p in trained.values()) == shape.num_layers * method_of(recipe).layer_parameters(
        recipe.method, shape, 1
    )


def test_an_export_computes_what_was_trained(recipe: Recipe, tmp_path: Path) -> None:
    torch.manual_seed(6)
    module = apply_method(load_model(recipe, vocab_size=264), recipe)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    weights = [(name, p.detach().clone()) for name, p in module.named_parameters() if p.requires_grad]
    expected = logits(module)
    adapter, merged = export_run(recipe, iter(weights), make_tokenizer(), out=str(tmp_path / "e"), card=FACTS)
    plain = AutoModelForCausalLM.from_pretrained(recipe.model.source, dtype=torch.float32)
    assert not torch.allclose(logits(plain), expected, atol=1e-2)
    torch.testing.assert_close(logits(PeftModel.from_pretrained(plain, adapter)), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(merged)), expected, atol=1e-4, rtol=1e-4)
    assert "IA3" in Path(adapter, "README.md").read_text()


@pytest.mark.parametrize(
    ("method", "got"),
    [
        ({"target_modules": ["k_proj", "v_projj"], "feedforward_modules": []}, "v_projj"),
        ({"feedforward_modules": ["up_proj"]}, "up_proj"),
        ({"target_modules": ["nothing"], "feedforward_modules": []}, "nothing"),
    ],
)
def test_names_that_fit_nothing_are_refused(method: dict[str, Any], got: str) -> None:
    recipe = make_recipe(model={"source": "random", "config": dict(LLAMA), "tokenizer": "t"})
    other = make_recipe(
        model={"source": "random", "config": dict(LLAMA), "tokenizer": "t"}, method={"kind": "ia3", **method}
    )
    with pytest.raises(ModelError) as caught:
        apply_method(load_model(recipe, vocab_size=264), other)
    assert got in caught.value.got


def test_what_it_does_not_go_with_is_refused_by_the_matrix() -> None:
    cut = make_recipe(method={"kind": "ia3"}, parallel={"tensor": 2, "zero": 1}, cluster={"workers": 2})
    assert verdict(cell_of(cut)).status == "refused"
    assert "shared_base" not in METHODS["ia3"].allows
