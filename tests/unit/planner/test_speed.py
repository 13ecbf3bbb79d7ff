"""How long a step takes, against speeds that were published, and what makes it longer."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fakes import LLAMA, make_recipe, recipe_8b

from raysft.model.shape import read_shape
from raysft.planner.devices import parse_cluster
from raysft.planner.speed import step_time
from raysft.recipe.schema import Recipe


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


def test_fp32_is_multiplied_by_ordinary_cores() -> None:
    """torch uses no TF32 unless it is told to: 67 TFLOP/s of an H100, not half of bf16's 989."""
    bf16, fp32 = (recipe_8b(1, method={"kind": "lora"}, train={"precision": name}) for name in ("bf16", "fp32"))
    shape, cluster = read_shape(bf16), parse_cluster("1xH100-80G")
    one, other = step_time(bf16, shape, cluster), step_time(fp32, shape, cluster)
    assert other.compute_s / one.compute_s == pytest.approx(989.4 / 67)
    assert other.mfu == pytest.approx(one.mfu, rel=0.05)  # of what the device can do in that precision


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
