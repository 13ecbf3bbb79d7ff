"""Memory of evaluation and export: by hand for an 8B model, as it is printed, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fakes import LLAMA_8B, recipe_8b

from raysft.errors import ClusterError
from raysft.model.shape import read_shape
from raysft.planner.devices import GIB, Cluster, find_device
from raysft.planner.tasks import (
    RAY_SHARE,
    check_tasks,
    evaluation_gpus,
    evaluation_memory,
    export_memory,
    export_tasks,
    task_lines,
)
from raysft.recipe.change import change
from raysft.recipe.facts import ClusterFacts, NodeFacts
from raysft.recipe.schema import Recipe
from raysft.run import layout_choice

PARAMETERS = 8_030_261_248
VOCABULARY, HIDDEN, INNER, LAYERS, KV_HEADS, HEAD = 128_256, 4096, 14_336, 32, 8, 128
HELD_OUT = {"eval_fraction": 0.1, "max_tokens": 4096}
ANSWERED = {"data": HELD_OUT, "evaluate": {"generate_prompts": 4}}
COMPARED = {"data": HELD_OUT, "objective": {"kind": "dpo"}}
"""Of pairs nobody but a task measures the loss of the preferred answers."""


def from_files(recipe: Recipe) -> tuple[Recipe, Any]:
    """As if its weights lay in files; the shape is read from its config."""
    return change(recipe, {"model.source": "some/base", "model.config": None}), read_shape(recipe)


@pytest.mark.parametrize(
    ("workers", "sections", "tasks"),
    [
        (1, {}, 1),
        (4, {}, 4),
        (64, {}, 9),  # 8.03e9 parameters of 2 bytes, 2e9 bytes a file
        (64, {"train": {"precision": "fp32"}}, 17),
        (64, {"method": {"kind": "lora", "rank": 4}, "export": {"merged": False}}, 1),
    ],
)
def test_an_export_has_a_task_for_each_worker_that_has_a_file(
    workers: int, sections: dict[str, Any], tasks: int
) -> None:
    assert export_tasks(*from_files(recipe_8b(workers, **sections))) == tasks
    fresh = recipe_8b(workers, **sections)
    assert export_tasks(fresh, read_shape(fresh)) == tasks


def test_a_stream_holds_a_tensor_and_the_adapters() -> None:
    full, shape = from_files(recipe_8b())
    assert (
        export_memory(full, shape) == 2 * 4 * VOCABULARY * HIDDEN
    )  # what was read of the checkpoint, and the tensor
    lora, shape = from_files(recipe_8b(method={"kind": "lora", "rank": 16, "target_modules": ["down_proj"]}))
    adapters = 4 * LAYERS * 16 * (INNER + HIDDEN)
    assert export_memory(lora, shape) == adapters + (4 + 2) * VOCABULARY * HIDDEN
    narrow = change(
        recipe_8b(method={"kind": "lora", "rank": 16, "target_modules": ["down_proj"]}),
        {"model.config": {**LLAMA_8B, "vocab_size": 1000}},
    )
    lora, shape = from_files(narrow)
    assert export_memory(lora, shape) == adapters + 8 * INNER * HIDDEN  # the layer and the product in fp32


def test_fresh_weights_are_a_stream_as_files_are() -> None:
    recipe = recipe_8b()
    assert export_memory(recipe, read_shape(recipe)) == 8 * VOCABULARY * HIDDEN


def test_an_evaluation_holds_the_model_once_in_its_precision() -> None:
    recipe, shape = from_files(recipe_8b(data=HELD_OUT, evaluate={"generate_prompts": 100, "max_new_tokens": 256}))
    found = evaluation_memory(recipe, shape, is_gpu=True)
    assert found.weights == 2 * PARAMETERS
    assert found.passing == 8 * VOCABULARY * HIDDEN
    assert found.answers == 2 * LAYERS * KV_HEADS * HEAD * (4096 + 256) * 32 * 2
    assert found.row < 2 * GIB
    fp32 = evaluation_memory(change(recipe, {"train.precision": "fp32"}), shape, is_gpu=True)
    assert fp32.weights == 4 * PARAMETERS
    few = evaluation_memory(change(recipe, {"evaluate.generate_prompts": 4}), shape, is_gpu=True)
    assert few.answers == found.answers // 8


def on(name: str, per_node: int = 8) -> Cluster:
    """A node of these."""
    return Cluster(find_device(name), per_node, per_node)


def test_both_are_printed() -> None:
    recipe, shape = from_files(recipe_8b(data=HELD_OUT, evaluate={"generate_prompts": 100, "max_new_tokens": 256}))
    recipe = change(recipe, {"cluster.gpus_per_worker": 1})
    lines = task_lines(recipe, shape, on("H100-80G"))
    assert lines[0].startswith("evaluate  4 tasks, each of one worker's size: weights 15.0, a row")
    assert "answers at most 17.0 GiB" in lines[0]
    assert lines[1] == "export    8 tasks, each of 3.9 GiB of host memory: a tensor at a time"  # of 9 files
    assert len(task_lines(recipe_8b(), shape, on("H100-80G"))) == 1  # nothing is held out
    losses, _ = task_lines(recipe_8b(data=HELD_OUT), shape, on("T4-16G"))
    assert losses.startswith("evaluate  losses before and after by the training workers")
    assert all(len(line) <= 120 for line in [*lines, *task_lines(recipe_8b(), shape, on("H100-80G"))])
    assert lines[1] in layout_choice.plan(recipe_8b(8), "8xH100-80G").lines()


@pytest.mark.parametrize(
    ("device", "per_node", "gpus", "words"),
    [
        ("H100-80G", 8, 1, "4 tasks, each of one worker's size"),  # 32 GiB of weights and answers
        ("L4-24G", 8, 2, "4 tasks, each of 2 GPUs of a node"),
        ("T4-16G", 8, 3, "2 tasks, each of 3 GPUs of a node"),
        ("T4-16G", 1, 1, "of it wait in host memory: slow"),
    ],
)
def test_a_model_that_no_gpu_holds_has_several_of_a_node(device: str, per_node: int, gpus: int, words: str) -> None:
    recipe, shape = from_files(recipe_8b(data=HELD_OUT, evaluate={"generate_prompts": 100, "max_new_tokens": 256}))
    recipe = change(recipe, {"cluster.gpus_per_worker": 1})
    found = evaluation_memory(recipe, shape, is_gpu=True)
    where = on(device, per_node)
    assert evaluation_gpus(recipe, shape, where) == gpus
    assert per_node == 1 or gpus * (where.device.memory_bytes - found.row) > found.weights + found.answers
    assert words in task_lines(recipe, shape, where)[0]
    check_tasks(recipe, shape, where, 0)
    assert evaluation_gpus(recipe, shape, None) == 1, "of a kind that is not known"
    assert evaluation_gpus(change(recipe, {"cluster.gpus_per_worker": 0}), shape, where) == 0


@pytest.mark.parametrize(
    ("sections", "device", "host_gib", "words"),
    [
        (ANSWERED, "TINY", 0, "evaluation before and after training"),
        (COMPARED, "TINY", 0, "evaluation before and after training"),
        (ANSWERED, "T4-16G", 0, None),  # layers wait in host memory
        (ANSWERED, "H100-80G", 0, None),
        ({"data": HELD_OUT}, "T4-16G", 0, None),  # losses alone: by the training workers
        ({}, "T4-16G", 0, None),
        ({}, None, 3, "export"),
        ({}, None, 5, None),
        (ANSWERED, None, 2, "evaluation before and after training"),
        (ANSWERED, None, 0, None),
    ],
)
def test_what_cannot_fit_is_refused_and_the_way_on_told(
    sections: dict[str, Any], device: str | None, host_gib: float, words: str | None
) -> None:
    recipe = recipe_8b(**sections)
    recipe = change(recipe, {"cluster.gpus_per_worker": int(device is not None)})
    shape = read_shape(recipe)
    where = on("T4-16G") if device else None
    if device == "TINY":  # less than embedding, head and a layer take
        where = Cluster(replace(find_device("T4-16G"), memory_bytes=2 * GIB), 8, 8)
    elif device:
        where = on(device)
    arguments = (recipe, shape, where, host_gib * GIB * RAY_SHARE)
    if words is None:
        check_tasks(*arguments)
        return
    with pytest.raises(ClusterError, match=words) as caught:
        check_tasks(*arguments)
    assert "GiB in one task" in caught.value.got
    is_way_out = sections is ANSWERED and "evaluation" in words
    assert ("losses alone" in str(caught.value.fix)) == is_way_out
    if is_way_out:
        check_tasks(change(recipe, {"evaluate.generate_prompts": 0}), shape, arguments[2], 40 * GIB)


def test_a_run_asks_before_it_trains() -> None:
    recipe = recipe_8b(**ANSWERED, cluster={"gpus_per_worker": 1})
    small, large = (
        ClusterFacts((NodeFacts(cpus=64, gpus=8, memory_bytes=512 * GIB, accelerator=kind),))
        for kind in ("T4", "H100")
    )
    unknown = ClusterFacts((NodeFacts(cpus=64, gpus=8, memory_bytes=512 * GIB),))
    for nodes, gpus in ((small, 2), (large, 1), (unknown, 1)):
        layout_choice.check_tasks(recipe, nodes)
        assert layout_choice.evaluation_gpus(recipe, nodes) == gpus
    long = change(recipe, {"data.max_tokens": 131_072, "model.attention": "eager"})
    with pytest.raises(ClusterError, match="evaluation"):
        layout_choice.check_tasks(long, small)
