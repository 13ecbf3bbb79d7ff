"""Further adapters of peft from attaching to an export, each: counted, loaded by plain peft, merged to 1e-4."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from exports import FACTS, logits, write_base
from fakes import make_recipe, make_tokenizer
from families import LLAMA
from peft import PeftModel
from transformers import AutoModelForCausalLM

from raysft.errors import ModelError, RecipeError
from raysft.model.export import export_run
from raysft.model.load import load_model
from raysft.model.methods import apply_method
from raysft.model.rehearsal import rehearse
from raysft.model.shape import read_shape
from raysft.recipe.model_checks import check_method
from raysft.recipe.traits import method_of
from raysft.recipe.tuners import TUNERS

SMALL = {
    "fourierft": {"n_frequency": 40, "scaling": 20.0},
    "oft": {"oft_block_size": 4},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("tuner"), LLAMA)


@pytest.mark.parametrize("tuner", TUNERS)
def test_an_export_computes_what_was_trained(base: Path, tmp_path: Path, tuner: str) -> None:
    recipe = make_recipe(
        model={"source": str(base), "config": None, "tokenizer": None},
        method={"kind": "tuner", "tuner": tuner, "options": SMALL.get(tuner, {"r": 4})},
    )
    assert any(line.startswith("trained") for line in rehearse(recipe, make_tokenizer()))
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    module = apply_method(load_model(recipe, vocab_size=264), recipe)
    torch.testing.assert_close(logits(module), logits(plain), atol=1e-4, rtol=1e-4)
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    shape = read_shape(recipe)
    assert sum(p.numel() for p in trained.values()) == shape.num_layers * method_of(recipe).layer_parameters(
        recipe.method, shape, 1
    )
    torch.manual_seed(6)
    with torch.no_grad():
        for parameter in trained.values():
            parameter.add_(0.1 * torch.randn_like(parameter))
    expected = logits(module)
    weights = {name: p.detach().clone() for name, p in trained.items()}
    adapter, merged = export_run(recipe, iter(weights.items()), make_tokenizer(), out=str(tmp_path / "e"), card=FACTS)
    assert not torch.allclose(logits(plain), expected, atol=1e-3)
    torch.testing.assert_close(logits(PeftModel.from_pretrained(plain, adapter)), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(merged)), expected, atol=1e-4, rtol=1e-4)


def test_numbers_and_names_that_do_not_fit_are_refused(base: Path) -> None:
    with pytest.raises(RecipeError, match="LoHa does not take") as caught:
        check_method(make_recipe(method={"kind": "tuner", "tuner": "loha", "options": {"rank": 4}}))
    assert "r (default 8)" in caught.value.expected
    with pytest.raises(RecipeError, match="VeRA is trained in fp32"):
        check_method(make_recipe(method={"kind": "tuner", "tuner": "vera"}, train={"precision": "bf16"}))
    source = {"source": str(base), "config": None, "tokenizer": None}
    for method, told in (
        ({"tuner": "loha", "target_modules": ["q_porj"]}, "q_porj"),
        ({"tuner": "oft", "options": {"oft_block_size": 7}}, "oft_block_size"),
    ):
        recipe = make_recipe(model=source, method={"kind": "tuner", **method})
        with pytest.raises(ModelError) as refused:
            apply_method(load_model(recipe, vocab_size=264), recipe)
        assert told in refused.value.got
