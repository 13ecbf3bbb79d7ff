"""Which nodes a run asks for, and what follows from the answer. No Ray: the cluster is a list of what it says."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from fakes import make_recipe

from raysft.errors import ClusterError
from raysft.recipe.facts import ClusterFacts, NodeFacts
from raysft.recipe.schema import Recipe
from raysft.run import nodes
from raysft.run.nodes import Growth, await_first_nodes, await_workers, next_step, replica_bundles, replicas
from raysft.runtime.demand import Answer

ELASTIC = make_recipe(cluster={"workers": {"min": 1, "max": 4}})
FIXED = make_recipe(cluster={"workers": 4, "cpus_per_worker": 2})


@pytest.mark.parametrize(
    ("recipe", "bundles", "range_"),
    [
        (ELASTIC, ({"CPU": 1.0},), (1, 4)),
        (FIXED, ({"CPU": 2.0},), (4, 4)),
        (
            make_recipe(cluster={"workers": {"min": 3, "max": 8}, "gpus_per_worker": 1}, parallel={"tensor": 2}),
            ({"CPU": 1.0, "GPU": 1.0},) * 2,
            (2, 4),  # whole replicas: three workers are two of them
        ),
        (
            make_recipe(cluster={"workers": 8}, parallel={"tensor": 2, "pipeline": 2, "zero": 0}),
            ({"CPU": 1.0},) * 4,
            (2, 2),
        ),
    ],
)
def test_what_is_asked_for(recipe: Recipe, bundles: tuple[dict[str, float], ...], range_: tuple[int, int]) -> None:
    assert replica_bundles(recipe) == bundles
    assert replicas(recipe) == range_


@pytest.mark.parametrize(
    ("answer", "waited_s", "step"),
    [
        (Answer(4, 2), 0, "go"),
        (Answer(4, 2, beyond=2), 0, "go"),
        (Answer(4, 1), 0, "wait"),  # the autoscaler has not answered
        (Answer(4, 0, beyond=0), 0, "wait"),
        (Answer(4, 1, beyond=2), 0, "wait"),  # the second is to come
        (Answer(4, 1, beyond=3), 0, "refuse"),
        (Answer(4, 0, beyond=4), 0, "refuse"),
        (Answer(4, 0, beyond=4, is_shared=True), 0, "wait"),  # others may end
        (Answer(4, 0, beyond=4, is_shared=True), 60, "late"),
        (Answer(4, 1), 59.9, "wait"),
        (Answer(4, 1), 60, "late"),
        (Answer(4, 2), 61, "go"),
    ],
)
def test_what_follows(answer: Answer, waited_s: float, step: str) -> None:
    assert next_step(answer, 2, waited_s, 60.0) == step


class FakeCluster:
    """The demands that were made, and what each look at the cluster sees."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, scales: bool) -> None:
        self.asked: list[tuple[int, int]] = []
        self.open = 0
        self.clock = 0.0
        self.alive: Iterator[list[int]] = itertools.repeat([])
        self.answers: Iterator[Answer] = itertools.repeat(Answer(4, 0, beyond=0))
        monkeypatch.setattr(nodes.demand, "scales", lambda: scales)
        monkeypatch.setattr(nodes, "Demand", self.demand)
        monkeypatch.setattr(nodes, "cluster_facts", self.facts)
        monkeypatch.setattr(nodes.time, "monotonic", lambda: self.clock)
        monkeypatch.setattr(nodes.time, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.clock += seconds

    def facts(self, without: Sequence[str] = ()) -> ClusterFacts:
        self.without = tuple(without)
        return ClusterFacts(tuple(NodeFacts(cpus=n, gpus=0) for n in next(self.alive)))

    def demand(self, unit: Any, *, least: int, most: int, left_out: Sequence[str] = ()) -> FakeCluster:
        self.asked.append((least, most))
        self.without = tuple(left_out)
        return self

    def look(self) -> Answer:
        return next(self.answers)

    def __enter__(self) -> FakeCluster:
        self.open += 1
        return self

    def __exit__(self, *error: object) -> None:
        self.open -= 1


def test_nodes_that_are_there_are_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCluster(monkeypatch, scales=True)
    fake.alive = itertools.repeat([4, 4])
    await_first_nodes(FIXED)
    assert await_workers(ELASTIC) == 4
    assert fake.asked == []


def test_a_cluster_that_scales_from_nothing_is_asked_and_awaited(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake = FakeCluster(monkeypatch, scales=True)
    fake.answers = iter([Answer(4, 0), Answer(4, 0, beyond=2), Answer(4, 1, beyond=2), Answer(4, 1, beyond=2)])
    assert await_workers(ELASTIC) == 1
    assert (fake.asked, fake.open) == ([(1, 4)], 0)
    (said,) = caplog.messages
    assert said == "waiting up to 10 min for nodes that hold 1 to 4 workers of 1 CPUs + 0 GPUs: " + (
        "the autoscaler was asked for them"
    )


def test_what_the_autoscaler_calls_impossible_is_refused_before_a_run_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCluster(monkeypatch, scales=True)
    fake.answers = iter([Answer(4, 0), Answer(4, 0, beyond=4)])
    with pytest.raises(ClusterError, match="can never hold this run, even with all the nodes"):
        await_first_nodes(FIXED)
    assert (fake.open, fake.clock) == (0, 1.0)


def test_after_a_loss_it_may_change_its_mind(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCluster(monkeypatch, scales=True)
    fake.answers = iter([Answer(4, 0, beyond=4), Answer(4, 0, beyond=4), Answer(4, 4)])
    assert await_workers(FIXED) == 4


@pytest.mark.parametrize("answer", [Answer(4, 3, beyond=0, failures=("gpu: no quota",)), Answer(4, 3, beyond=4)])
def test_the_wait_has_an_end(monkeypatch: pytest.MonkeyPatch, answer: Answer) -> None:
    fake = FakeCluster(monkeypatch, scales=True)
    fake.answers = itertools.repeat(answer)
    with pytest.raises(ClusterError, match="have not come") as found:
        await_workers(FIXED)
    assert fake.clock == 600
    assert "room for 3 worker(s)" in found.value.got
    assert ("no quota" in found.value.got) is bool(answer.failures)


def test_without_an_autoscaler_it_is_refused_at_once_and_lost_nodes_are_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = FakeCluster(monkeypatch, scales=False)
    with pytest.raises(ClusterError, match="the cluster can never hold this run\n"):
        await_first_nodes(ELASTIC)
    assert fake.clock == 0
    fake.alive = iter([[0], [0], [0], [3]])
    assert await_workers(ELASTIC) == 3
    fake.alive = itertools.repeat([0])
    with pytest.raises(ClusterError, match="the cluster can never hold this run\n"):
        await_workers(ELASTIC)
    assert fake.clock >= 600
    assert fake.asked == []


def test_waiting_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCluster(monkeypatch, scales=True)
    impatient = make_recipe(cluster={"workers": 2, "wait_for_nodes_s": 0})
    with pytest.raises(ClusterError, match="never hold"):
        await_first_nodes(impatient)
    assert fake.asked == []


def test_a_wait_ends_when_the_run_is_asked_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCluster(monkeypatch, scales=True)
    assert await_workers(FIXED, stopped=lambda: fake.clock >= 3) == 0
    assert (fake.open, fake.clock) == (0, 3)


def test_an_elastic_run_goes_on_asking_once_it_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCluster(monkeypatch, scales=True)
    with Growth(ELASTIC, 1) as growth:
        assert fake.asked == [], "it would take the node from the attempt"
        growth.ask()
        growth.ask()
        assert (fake.asked, fake.open) == ([(1, 3)], 1)
    assert fake.open == 0
    for recipe in (ELASTIC, FIXED):
        with Growth(recipe, 4) as growth:
            growth.ask()
    assert fake.asked == [(1, 3)]
    still = FakeCluster(monkeypatch, scales=False)
    with Growth(ELASTIC, 1) as growth:
        growth.ask()
    assert still.asked == []


@pytest.mark.parametrize("scales", [True, False])
def test_broken_nodes_are_left_out_and_named_when_too_few_are_left(
    monkeypatch: pytest.MonkeyPatch, scales: bool
) -> None:
    fake = FakeCluster(monkeypatch, scales=scales)
    with pytest.raises(ClusterError, match="whose hardware has not failed") as found:
        await_workers(FIXED, left_out=("aabb",))
    assert fake.without == ("aabb",)
    assert "without 1 node(s): aabb" in found.value.got
    assert bool(fake.asked) is scales
