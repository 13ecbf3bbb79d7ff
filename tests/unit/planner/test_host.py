"""Host memory of a node, and the bytes of a commit: by hand for 8B and 70B; what a node cannot hold is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fakes import make_recipe, recipe_8b

from raysft.errors import ClusterError
from raysft.model.facts import read_facts
from raysft.model.shape import read_shape
from raysft.planner.devices import GIB, parse_cluster
from raysft.planner.host import (
    check_host_memory,
    checkpoint_bytes,
    host_memory,
    resumed_bytes,
    save_lines,
)
from raysft.planner.layout import best, weigh
from raysft.planner.memory import predict
from raysft.recipe.change import change
from raysft.recipe.schema import Recipe

P = 8_030_261_248
"""Parameters of Llama 3 8B."""


def eight(**fields: Any) -> tuple[Recipe, Any]:
    recipe = recipe_8b(8, **fields)
    return recipe, read_shape(recipe)


def test_a_commit_is_twelve_bytes_a_trained_parameter_whatever_the_layout() -> None:
    for parallel in ({"zero": 3}, {"zero": 1, "tensor": 2}, {"zero": 0, "pipeline": 4}):
        assert checkpoint_bytes(*eight(parallel=parallel)) == 12 * P
    lora, shape = eight(method={"kind": "lora", "rank": 16, "target_modules": ["q_proj"]})
    assert checkpoint_bytes(lora, shape) == 12 * 32 * (4096 * 16 + 16 * 4096)


@pytest.mark.parametrize("parallel", [{"zero": 3}, {"zero": 2}, {"zero": 0}, {"zero": 1, "tensor": 4}])
def test_each_worker_keeps_its_share_of_a_save(parallel: dict[str, Any]) -> None:
    recipe, shape = eight(parallel=parallel)
    assert host_memory(recipe, shape).saved == pytest.approx(12 * P / 8, rel=1e-6)
    assert host_memory(recipe, shape).offloaded == 0


def test_what_a_worker_reads_of_a_commit() -> None:
    share = 12 * P / 8
    for zero, expected in ((3, share), (2, share + 4 * P * 7 / 8), (1, share + 4 * P * 7 / 8)):
        assert resumed_bytes(*eight(parallel={"zero": zero})) == pytest.approx(expected, rel=1e-6)
    plain, shape = eight(parallel={"zero": 0}, train={"precision": "fp32"})
    assert resumed_bytes(plain, shape) == 12 * P


def test_offloaded_state_lies_in_host_memory() -> None:
    """bf16, ZeRO 2: masters 4, sums 4 and moments 8 bytes of an eighth."""
    recipe, shape = eight(parallel={"zero": 2, "offload": "cpu"})
    assert host_memory(recipe, shape).offloaded == pytest.approx(16 * P / 8, rel=1e-6)


def test_on_cpu_the_copy_of_a_save_counts_with_the_worker() -> None:
    recipe, shape = eight(parallel={"zero": 3})
    on_cpu, on_gpu = (predict(recipe, shape, is_gpu=is_gpu) for is_gpu in (False, True))
    assert on_cpu.classes["saved"] == pytest.approx(12 * P / 8, rel=1e-6)
    assert on_gpu.classes["saved"] == 0
    assert on_cpu.total == sum(on_cpu.classes.values())


@pytest.mark.parametrize(
    ("fields", "room_gib", "told"),
    [
        ({"model": {"source": "there"}}, 80, ("share of a save", "more nodes")),
        (
            {"model": {"source": "there"}, "parallel": {"zero": 2, "offload": "cpu"}},
            200,
            ("optimizer state", "offload"),
        ),
    ],
)
def test_what_a_node_cannot_hold_is_refused(fields: dict[str, Any], room_gib: int, told: tuple[str, str]) -> None:
    recipe, shape = eight(parallel={"zero": 3}, **{n: v for n, v in fields.items() if n == "method"})
    for section, values in fields.items():
        if values.get("source") == "there":
            recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"source": "/models/there"})})
        elif section == "parallel":
            recipe = change(recipe, {f"parallel.{key}": value for key, value in values.items()})
    cluster = replace(parse_cluster("8xH100-80G"), host_bytes=room_gib * GIB)
    with pytest.raises(ClusterError) as caught:
        check_host_memory(recipe, shape, cluster)
    assert told[0] in caught.value.got
    assert told[1] in caught.value.fix
    check_host_memory(recipe, shape, replace(cluster, host_bytes=400 * GIB))
    check_host_memory(recipe, shape, replace(cluster, host_bytes=None))


def test_the_lines_of_a_plan() -> None:
    recipe, shape = eight(parallel={"zero": 3})
    save, resume, host = save_lines(recipe, shape, parse_cluster("8xH100-80G"))
    assert "89.7 GiB a checkpoint, 11.2 GiB a worker" in save
    assert "96 s at 1 GB/s a node" in save
    assert "reads 11.2 GiB" in resume
    assert "89.7 GiB a node" in host, "copies of saves alone: nobody makes fresh weights whole"
    small = make_recipe()
    lines = save_lines(small, read_shape(small), parse_cluster("2xCPU-4G"))
    assert len(lines) == 2
    assert "MiB a checkpoint" in lines[0]


def test_a_layout_is_chosen_that_host_memory_holds_too() -> None:
    """Moving state out of the GPUs fits them, but not a node with little memory: such layouts count as too large."""
    recipe, shape = eight(parallel={"zero": 2, "offload": "cpu"})
    cluster = parse_cluster("8xH100-80G")
    for room_gib, fits in ((None, True), (400, True), (200, False)):
        where = replace(cluster, host_bytes=room_gib and room_gib * GIB)
        assert weigh(recipe, shape, where).fits == fits


def test_a_choice_that_only_host_memory_forbids_says_so() -> None:
    recipe, shape = eight(parallel={"zero": 3})
    cluster = replace(parse_cluster("8xH100-80G"), host_bytes=20 * GIB)
    with pytest.raises(ClusterError, match="more host memory than it has"):
        best(recipe, read_facts(recipe), shape, cluster)
