"""AdaLoRA's own arithmetic by hand and by autograd, and an export that computes what was trained.

That whole runs equal peft's trainer is shown in tests/parity/test_methods.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from exports import FACTS, IDS, logits
from fakes import make_recipe, make_tokenizer
from families import LLAMA
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from raysft.errors import ModelError, RecipeError
from raysft.model.export import export_run
from raysft.model.load import load_model
from raysft.model.methods import apply_method, step_acts
from raysft.model.methods.adalora import Phases, RankAllocation, most_important, penalty_gradient, ranks_left
from raysft.model.shape import read_shape
from raysft.recipe.checks import check_recipe
from raysft.recipe.compatibility import cell_of, verdict
from raysft.recipe.schema import Recipe
from raysft.recipe.sections.method import AdaloraMethod
from raysft.recipe.traits import method_of


class Plain:
    """Parameters of a module that one process has whole."""

    def __init__(self, module: nn.Module) -> None:
        self.trained = {name: p for name, p in module.named_parameters() if p.requires_grad}

    def weight(self, name: str) -> Tensor:
        return self.trained[name].detach()

    def set_weight(self, name: str, value: Tensor) -> None:
        self.trained[name].data.copy_(value)

    def gradient(self, name: str) -> Tensor:
        found = self.trained[name].grad
        assert found is not None
        return found

    def set_gradient(self, name: str, value: Tensor) -> None:
        self.gradient(name).copy_(value)


def recipe_of(base: Path, **method: Any) -> Recipe:
    fields = {"kind": "adalora", "rank": 4, "target_rank": 2, "target_modules": ["q_proj", "v_proj"], **method}
    return make_recipe(model={"source": str(base), "config": None, "tokenizer": None}, method=fields)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    torch.manual_seed(3)
    config = AutoConfig.for_model(**LLAMA, vocab_size=264, initializer_range=0.2, pad_token_id=0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def attached(recipe: Recipe) -> nn.Module:
    return apply_method(load_model(recipe, vocab_size=264), recipe)


def acts_of(module: nn.Module, recipe: Recipe, total_steps: int) -> RankAllocation:
    acts = step_acts(module, recipe, total_steps)
    assert isinstance(acts, RankAllocation)
    return acts


def test_it_begins_as_the_base_and_the_planner_knows_its_size(base: Path) -> None:
    recipe = recipe_of(base)
    module = attached(recipe)
    assert torch.equal(logits(module), logits(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)))
    shape, trained = read_shape(recipe), [p for p in module.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) == shape.num_layers * method_of(recipe).layer_parameters(
        recipe.method, shape, 1
    )


@pytest.mark.parametrize("rows", [True, False])
def test_the_penalty_has_the_gradient_that_autograd_finds(rows: bool) -> None:
    torch.manual_seed(1)
    matrix = torch.randn(3, 7, dtype=torch.float64) if rows else torch.randn(7, 3, dtype=torch.float64)
    matrix.requires_grad_()
    product = matrix @ matrix.T if rows else matrix.T @ matrix
    (product - torch.eye(3, dtype=torch.float64)).pow(2).sum().sqrt().backward()
    torch.testing.assert_close(penalty_gradient(matrix.detach(), rows=rows), matrix.grad)


def test_orthonormal_vectors_are_not_pulled_and_give_no_nan() -> None:
    found = penalty_gradient(torch.eye(3, 5), rows=True)
    assert torch.equal(found, torch.zeros(3, 5))


def test_the_budget_falls_as_a_cube_and_ends_at_the_target() -> None:
    method = AdaloraMethod(kind="adalora", rank=12, target_rank=8, warmup_share=0.1, final_share=0.3, every_steps=10)
    phases = Phases.of(method, 101)
    assert phases == Phases(start=10, end=70)
    found = {step: ranks_left(step, method, phases, 5) for step in range(101)}
    assert [step for step, left in found.items() if left is not None] == [20, 30, 40, 50, 60, 70]
    assert found[20] == 40 + int(20 * (50 / 60) ** 3) == 51
    assert found[40] == 40 + int(20 * 0.5**3) == 42
    assert found[70] == 40


@pytest.mark.parametrize("total_steps", [1, 2, 3, 10])
def test_the_shortest_runs_end_at_the_target_too(total_steps: int) -> None:
    method = AdaloraMethod(kind="adalora", rank=4, target_rank=1, warmup_share=0.5, final_share=0.0)
    phases = Phases.of(method, total_steps)
    assert ranks_left(phases.end, method, phases, 3) == 3
    assert 0 <= phases.start <= phases.end < total_steps


def test_the_least_important_go_whatever_their_layer() -> None:
    scores = {"a": torch.tensor([[5.0], [1.0], [4.0]]), "b": torch.tensor([[0.5], [3.0], [2.0]])}
    kept = most_important(scores, 3)
    assert {name: one.flatten().tolist() for name, one in kept.items()} == {"a": [1, 0, 1], "b": [0, 1, 0]}
    assert all(bool(one.all()) for one in most_important(scores, 6).values())


def train(module: nn.Module, acts: RankAllocation, steps: range) -> None:
    """A bare loop; the loss is made of logits at random targets."""
    parameters = Plain(module)
    for step in steps:
        torch.manual_seed(step)
        module.zero_grad()
        target = torch.randint(0, 264, IDS.shape)
        nn.functional.cross_entropy(module(input_ids=IDS).logits.flatten(0, 1), target.flatten()).backward()
        acts.before_update(step, parameters)
        with torch.no_grad():
            for parameter in parameters.trained.values():
                assert parameter.grad is not None
                parameter -= 0.3 * parameter.grad
        acts.after_update(step, parameters)


def kept_values(module: nn.Module) -> list[int]:
    return [int((p != 0).sum()) for name, p in module.named_parameters() if "lora_E" in name]


def test_ranks_are_taken_stay_zero_and_resume_as_they_were(base: Path) -> None:
    recipe = recipe_of(base, warmup_share=0.1, final_share=0.3, every_steps=2)
    whole = attached(recipe)
    acts = acts_of(whole, recipe, 20)
    train(whole, acts, range(9))
    assert sum(kept_values(whole)) < 4 * len(kept_values(whole))
    state = {key: value.clone() for key, value in acts.state()}
    halfway = {name: p.detach().clone() for name, p in whole.named_parameters() if p.requires_grad}
    train(whole, acts, range(9, 20))
    assert sum(kept_values(whole)) == 2 * len(kept_values(whole))

    again = attached(recipe)
    again.load_state_dict(halfway, strict=False)
    resumed = acts_of(again, recipe, 20)
    resumed.restore(state.__getitem__)
    train(again, resumed, range(9, 20))
    for (name, one), (_, other) in zip(whole.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(one, other), name


def test_a_step_that_is_tried_again_counts_once(base: Path) -> None:
    recipe = recipe_of(base)
    found = []
    for tries in (1, 2):
        module = attached(recipe)
        acts, parameters = acts_of(module, recipe, 20), Plain(module)
        for number in range(tries):
            module.zero_grad()
            (module(input_ids=IDS).logits.sum() * (float("nan") if number < tries - 1 else 1.0)).backward()
            acts.before_update(0, parameters)
        acts.after_update(0, parameters)
        found.append(dict(acts.state()))
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


def test_an_export_computes_what_was_trained(base: Path, tmp_path: Path) -> None:
    recipe = recipe_of(base, warmup_share=0.0, every_steps=1)
    module = attached(recipe)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "lora_E" in name:
                parameter.add_(torch.tensor([[30.0], [-20.0], [10.0], [5.0]]))
    train(module, acts_of(module, recipe, 6), range(6))
    assert sum(kept_values(module)) == 2 * len(kept_values(module))
    expected = logits(module)
    weights = [(name, p.detach().clone()) for name, p in module.named_parameters() if p.requires_grad]
    adapter, merged = export_run(recipe, iter(weights), make_tokenizer(), out=str(tmp_path / "e"), card=FACTS)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    assert not torch.allclose(logits(plain), expected, atol=1e-2)
    torch.testing.assert_close(logits(PeftModel.from_pretrained(plain, adapter)), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(merged)), expected, atol=1e-4, rtol=1e-4)
    assert "AdaLoRA" in Path(adapter, "README.md").read_text()


@pytest.mark.parametrize(
    ("method", "got"),
    [
        ({"rank": 4, "target_rank": 4}, "method.rank = 4, method.target_rank = 4"),
        ({"warmup_share": 0.7, "final_share": 0.3}, "method.warmup_share = 0.7, method.final_share = 0.3"),
    ],
)
def test_numbers_that_leave_nothing_to_take_are_refused(tmp_path: Path, method: dict[str, Any], got: str) -> None:
    with pytest.raises(RecipeError) as caught:
        check_recipe(recipe_of(tmp_path, **method))
    assert caught.value.got == got


def test_names_that_fit_nothing_are_refused(base: Path) -> None:
    for targets in (["nothing"], ["q_proj", "nothing"]):
        with pytest.raises(ModelError) as caught:
            attached(recipe_of(base, target_modules=targets))
        assert "nothing" in caught.value.got


def test_what_it_does_not_go_with_is_refused_by_the_matrix(tmp_path: Path) -> None:
    for axis in ("pipeline", "tensor"):
        cut = recipe_of(tmp_path).model_copy(update={"parallel": make_recipe(parallel={axis: 2, "zero": 1}).parallel})
        assert verdict(cell_of(cut)).status == "refused"
    assert "shared_base" not in method_of(recipe_of(tmp_path)).allows
