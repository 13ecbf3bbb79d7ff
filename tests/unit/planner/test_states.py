"""Model states against the ZeRO paper's table, and raysft's own bases."""

from __future__ import annotations

import pytest
from fakes import make_recipe
from families import V, tiny_fields

from raysft.model.load import empty_model
from raysft.model.methods import apply_method
from raysft.model.shape import read_shape
from raysft.planner.memory import adapter_parameters
from raysft.planner.states import ZERO_PAPER, basis, model_states

P = 7_500_000_000


@pytest.mark.parametrize(("zero", "gigabytes"), [(0, 120), (1, 31.4), (2, 16.6), (3, 1.9)])
def test_the_papers_table_for_7_5b_over_64_ranks(zero: int, gigabytes: float) -> None:
    """arXiv:1910.02054, figure 1: the bytes of 7.5 B parameters on each of 64 devices."""
    states = model_states(P, P, 64, zero, ZERO_PAPER)
    assert states.total / 1e9 == pytest.approx(gigabytes, abs=0.05)


@pytest.mark.parametrize("ranks", [1, 4, 16, 64, 256, 1024])
def test_the_papers_formulas(ranks: int) -> None:
    """Section 5: 16 P; 4 P + 12 P / N; 2 P + 14 P / N; 16 P / N."""
    expected = (16 * P, 4 * P + 12 * P / ranks, 2 * P + 14 * P / ranks, 16 * P / ranks)
    for zero, total in enumerate(expected):
        assert model_states(P, P, ranks, zero, ZERO_PAPER).total == pytest.approx(total)


def test_the_bases_say_what_they_count() -> None:
    found = {
        (precision, zero): basis(precision, zero).per_trained
        for precision in ("fp32", "bf16")
        for zero in (0, 1, 2, 3)
    }
    assert found == {
        ("fp32", 0): 16,
        ("fp32", 1): 20,
        ("fp32", 2): 20,
        ("fp32", 3): 20,
        ("bf16", 0): 20,
        ("bf16", 1): 20,
        ("bf16", 2): 18,
        ("bf16", 3): 18,
    }
    assert "ZeRO 1" in basis("bf16", 0).name  # which it runs as
    assert basis("fp32", 0, moments=0).per_trained == 8
    assert basis("bf16", 3, moments=0).per_trained == 10


def test_what_is_frozen_needs_its_weights_only() -> None:
    states = model_states(P, 0, 8, 2, basis("bf16", 2))
    assert states.total == states.parameters == 2 * P
    assert model_states(P, 0, 8, 3, basis("bf16", 3)).total == 2 * P // 8


def test_adapters_of_experts_are_counted_as_peft_makes_them() -> None:
    """granitemoe has one input matrix for gate and up, [experts, 2 x inner, hidden]; it is counted as two."""
    fields = tiny_fields("granitemoe")
    recipe = make_recipe(model={"config": fields}, method={"kind": "lora", "rank": 2})
    shape = read_shape(recipe)
    model = apply_method(empty_model(recipe, vocab_size=V), recipe)
    made = sum(p.numel() for p in model.parameters() if p.requires_grad) // shape.num_layers
    hidden, experts = 32, 4
    twice = experts * 2 * hidden  # rank x hidden, once more
    router = 2 * (hidden + experts)  # counted as a layer, and left frozen
    assert adapter_parameters(recipe, shape) - twice - router == made
