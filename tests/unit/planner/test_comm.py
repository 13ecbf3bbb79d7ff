"""Communication volume and bubble against published formulas, and the time they cost."""

from __future__ import annotations

import pytest
from fakes import recipe_8b

from raysft.model.shape import read_shape
from raysft.planner.comm import bubble, traffic, zero_elements


@pytest.mark.parametrize(("stages", "micro"), [(1, 1), (2, 1), (2, 8), (4, 4), (8, 64)])
def test_the_bubble(stages: int, micro: int) -> None:
    """GPipe (arXiv:1811.06965), section 2.3: of m + p - 1 slots each stage works in m."""
    slots = micro + stages - 1
    assert bubble(stages, micro) == pytest.approx(1 - micro / slots)


@pytest.mark.parametrize(("zero", "times"), [(0, 2), (1, 2), (2, 2), (3, 3)])
def test_the_volume_of_zero(zero: int, times: int) -> None:
    """arXiv:1910.02054, section 7: 2P, 2P, 2P and 3P elements; with n ranks (n - 1) / n of it."""
    assert sum(zero_elements(1000, 1000, 10**9, zero, 1)) == pytest.approx(times * 1000)
    assert sum(zero_elements(1000, 1000, 4, zero, 1)) == pytest.approx(times * 750)
    assert sum(zero_elements(1000, 1000, 1, zero, 1)) == 0


def test_stages_2_and_3_communicate_in_every_micro_batch() -> None:
    assert sum(zero_elements(1000, 1000, 10**9, 1, 5)) == pytest.approx(2000)
    assert sum(zero_elements(1000, 1000, 10**9, 2, 5)) == pytest.approx(6000)
    assert sum(zero_elements(1000, 1000, 10**9, 3, 5)) == pytest.approx(15000)


def test_a_tensor_parallel_layer_all_reduces_four_times() -> None:
    """arXiv:1909.08053, section 3: two forward, two backward; a ring sends 2 (t - 1) / t of the tensor each time."""
    recipe = recipe_8b(4, parallel={"zero": 0, "tensor": 4}, train={"rows_per_step": 1})
    found = traffic(recipe, read_shape(recipe))
    assert found.tensor == 32 * 4 * 2 * (3 / 4) * (4096 * 4096 * 2)
    assert found.sequence == found.pipeline == found.gradients == found.weights == 0


def test_ulysses_exchanges_four_tensors_each_way() -> None:
    """arXiv:2309.14509, section 3.2: queries, keys, values in, the answer out; keys and values have fewer heads."""
    recipe = recipe_8b(4, parallel={"zero": 0, "sequence": 4}, train={"rows_per_step": 1})
    found = traffic(recipe, read_shape(recipe))
    a_pass = (32 + 8 + 8 + 32) * 128 * (4096 / 4) * 2 * (3 / 4)
    assert found.sequence == 32 * 2 * a_pass


def test_a_pipeline_sends_its_hidden_states_there_and_their_gradients_back() -> None:
    recipe = recipe_8b(4, parallel={"zero": 0, "pipeline": 4}, train={"rows_per_step": 6})
    assert traffic(recipe, read_shape(recipe)).pipeline == 6 * 2 * (4096 * 4096 * 2)
