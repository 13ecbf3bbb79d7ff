"""`raysft plan` as a user meets it: what is printed, and what is refused with a message and a code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import raysft, write_material
from fakes import LLAMA, make_recipe

from raysft.errors import ClusterError, StorageError
from raysft.recipe.facts import ClusterFacts, NodeFacts
from raysft.run import layout_choice, storage_watch

DEEPER = ("--set", "model.config.num_hidden_layers=4")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_material(tmp_path_factory.mktemp("planner"))


def test_a_plan_and_the_matrix(capsys: pytest.CaptureFixture[str], recipe: Path) -> None:
    ran = raysft(capsys, "plan", recipe, "--cluster", "2xH100-80G")
    assert ran.code == 0
    assert "fastest" in ran.out
    numbers = json.loads(raysft(capsys, "plan", recipe, "--cluster", "2xCPU-8G", "--json").out)
    assert all(layout["fits"] for layout in numbers["layouts"])
    ran = raysft(capsys, "plan", "--matrix")
    assert ran.code == 0
    assert "no: refused" in ran.out


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--cluster", "8H100"), "COUNTxDEVICE"),
        (("--cluster", "8xH100-90G"), "did you mean H100-80G?"),
        (("--set", "parallel={zero: 3, tensor: 2}", "--set", "cluster.workers=2"), "set parallel.zero to 2"),
        (("--set", "parallel.tensor=0"), "parallel.tensor"),
        (("--cluster", "3xCPU-8G", "--set", "parallel={zero: 1, pipeline: 2}", *DEEPER), "do not divide"),
        (("--cluster", "8xH100-80G", "--set", "parallel={zero: 2, pipeline: 4}", *DEEPER), "ZeRO 2 and 3 partition"),
        (("--set", "cluster.gpus_per_worker=1"), "--cluster 8xH100-80G"),
    ],
)
def test_what_is_refused(
    capsys: pytest.CaptureFixture[str], recipe: Path, arguments: tuple[str, ...], word: str
) -> None:
    ran = raysft(capsys, "plan", recipe, *arguments)
    assert ran.code == 2
    assert word in ran.err
    assert ran.err.count("\n") <= 5


def test_without_a_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    ran = raysft(capsys, "plan")
    assert ran.code == 2
    assert "--matrix" in ran.err


@pytest.mark.parametrize(
    ("nodes", "workers", "gib"),
    [
        ([(8, 70)], 4, 25.0),  # Ray has 0.7 of a node's memory for tasks
        ([(0, 1.4), (8, 70), (8, 70)], 4, 50.0),  # a head without CPUs, two workers on each of the others
        ([(8, 7), (8, 70)], 4, 25.0),  # all on the large one
        ([(2, 7), (2, 70)], 4, 5.0),  # where no other place is left the small one counts
        ([(8, 70), (8, 70), (1, 0.7)], 3, 50.0),
        ([(8, 70)], 9, None),  # nodes that are still to come
        ([], 1, None),
    ],
)
def test_the_memory_of_cpu_workers(nodes: list[tuple[int, float]], workers: int, gib: float | None) -> None:
    facts = ClusterFacts(tuple(NodeFacts(cpus, 0, memory * 2**30) for cpus, memory in nodes))
    where = layout_choice._cpus(make_recipe(cluster={"workers": workers}), facts)
    assert (None if where is None else where.device.memory_bytes / 2**30) == (gib and pytest.approx(gib, abs=0.05))


def test_a_run_that_cpu_nodes_cannot_hold_is_refused_and_only_that() -> None:
    config = {**LLAMA, "hidden_size": 512, "vocab_size": 100_000}
    recipe = make_recipe(model={"source": "random", "config": config}, cluster={"workers": 2})
    head, node = NodeFacts(0, 0, 2**20), NodeFacts(2, 0, 4 * 2**30)
    layout_choice.choose_layout(recipe, ClusterFacts((head, node)))
    with pytest.raises(ClusterError, match="more memory than its device has"):
        layout_choice.choose_layout(recipe, ClusterFacts((head, NodeFacts(2, 0, 2**28))))
    layout_choice.choose_layout(recipe, ClusterFacts((head, NodeFacts(1, 0, 2**28))))  # more nodes may come


def test_a_run_whose_first_checkpoint_has_no_room_is_refused_with_the_bytes_of_its_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {**LLAMA, "hidden_size": 64, "vocab_size": 1000, "tie_word_embeddings": True}
    model = {"source": "random", "config": config}
    whole, adapters = (
        make_recipe(model=model, method=method, storage=str(tmp_path)) for method in ({}, {"kind": "lora"})
    )
    nodes = ClusterFacts((NodeFacts(2, 0, 2**34),))
    embeddings = 1000 * 64 * 3 * 4  # weight and two moments in fp32
    monkeypatch.setattr(storage_watch, "free_bytes", lambda run: embeddings)
    with pytest.raises(StorageError, match="does not fit on the disk"):
        layout_choice.check_tasks(whole, nodes)
    layout_choice.check_tasks(adapters, nodes)
