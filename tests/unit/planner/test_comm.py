"""Communication volume and bubble against published formulas, and the time they cost."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fakes import LLAMA, make_recipe, recipe_8b

from raysft.model.shape import read_shape
from raysft.planner.comm import bubble, traffic, zero_elements
from raysft.planner.devices import parse_cluster
from raysft.planner.speed import step_time
from raysft.recipe.schema import Recipe


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


def test_published_speeds() -> None:
    """A simulation, no measurement: 8B on H100s against what others publish.

    NeMo Automodel: LoRA at 4,096, micro-batch 2, one H100: 12,473 tokens/s. torchtitan: 8B full at 8,192, FSDP on
    eight H100, eager, selective checkpointing: 5,762 tokens/s a device, which must lie between none and all of it.
    """
    one = recipe_8b(1, method={"kind": "lora"}, train={"micro_batch_rows": 2, "rows_per_step": 32})
    predicted = step_time(one, read_shape(one), parse_cluster("1xH100-80G"))
    assert predicted.tokens_per_s == pytest.approx(12_473, rel=0.1)
    rates = []
    for checkpointing in (True, False):
        train = {"rows_per_step": 8, "gradient_checkpointing": checkpointing}
        eight = recipe_8b(8, parallel={"zero": 3}, data={"max_tokens": 8192}, train=train)
        rates.append(step_time(eight, read_shape(eight), parse_cluster("8xH100-80G")).tokens_per_s / 8)
    assert rates[0] < 5_762 < rates[1]
    assert rates[1] < 1.3 * 5_762


def test_what_makes_a_step_slower() -> None:
    cluster = parse_cluster("8xH100-80G")

    def seconds(recipe: Recipe, nodes: str = "") -> float:
        return step_time(recipe, read_shape(recipe), parse_cluster(nodes) if nodes else cluster).total_s

    base = seconds(recipe_8b(parallel={"zero": 3}))
    assert seconds(recipe_8b(parallel={"zero": 3}, train={"gradient_checkpointing": True})) > 1.2 * base
    assert seconds(recipe_8b(parallel={"zero": 3}), "8x1xH100-80G") > base  # one a node: all over the network
    assert seconds(recipe_8b(parallel={"zero": 3}), "8xA100-80G") > 2 * base
    long = recipe_8b(parallel={"zero": 1, "pipeline": 8})
    short = recipe_8b(parallel={"zero": 1, "pipeline": 8}, train={"rows_per_step": 8})
    assert seconds(short) * 8 > seconds(long)  # the bubble
    shape = read_shape(long)
    assert step_time(long, shape, cluster).mfu < 0.4
    assert step_time(long, replace(shape, num_layers=64), cluster).total_s > seconds(long)


def test_a_small_model_on_cpu_takes_some_time_at_all() -> None:
    recipe = make_recipe(model={"config": LLAMA | {"vocab_size": 300}}, cluster={"workers": 2})
    assert 0 < step_time(recipe, read_shape(recipe), parse_cluster("2xCPU-4G")).total_s < 10
