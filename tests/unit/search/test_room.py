"""How many trials a cluster holds at a time: as it is, and as its autoscaler can make it."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from replay import search_recipe

from raysft.errors import ClusterError
from raysft.recipe.change import change
from raysft.recipe.facts import ClusterFacts, NodeFacts
from raysft.recipe.schema import Recipe
from raysft.recipe.tune_checks import check_tune
from raysft.run import nodes
from raysft.runtime.demand import Answer
from raysft.search import room
from raysft.search.room import await_room, room_for, trials_held

RATE = {"optimizer.learning_rate": {"distribution": "loguniform", "low": 1e-4, "high": 1e-2}}


@pytest.fixture
def recipe() -> Recipe:
    return search_recipe(RATE, budget={"trials": 5}, searcher="random", scheduler="none")


@pytest.mark.parametrize(
    ("nodes", "cluster", "room"),
    [
        ([(8, 0)], {}, 8),
        ([(8, 0)], {"workers": 2}, 4),
        ([(8, 0), (3, 0)], {"cpus_per_worker": 2}, 5),
        ([(8, 2)], {"gpus_per_worker": 1}, 2),
        ([(1, 4)], {"gpus_per_worker": 1}, 1),
        ([(2, 0)], {"workers": 4}, 1),  # it waits for nodes
        ([], {}, 1),
    ],
)
def test_as_many_trials_as_the_cluster_holds(
    recipe: Recipe, nodes: list[tuple[float, float]], cluster: dict[str, Any], room: int
) -> None:
    wanted = change(recipe, {f"cluster.{name}": value for name, value in cluster.items()})
    assert room_for(wanted, ClusterFacts(tuple(NodeFacts(cpus, gpus) for cpus, gpus in nodes))) == room


@pytest.mark.parametrize(
    ("answer", "now", "trials"),
    [
        (Answer(8, 1, beyond=0), 1, 8),
        (Answer(8, 2, beyond=5), 2, 3),
        (Answer(8, 1, beyond=None), 4, 4),  # it tells nothing: what is there now counts
        (Answer(8, 1, beyond=8), 1, 1),
    ],
)
def test_trials_that_an_autoscaler_can_hold(answer: Answer, now: int, trials: int) -> None:
    assert trials_held(answer, now) == trials


class Asked:
    """A demand and what it comes to."""

    def __init__(self, answers: Any) -> None:
        self.answers, self.asked, self.open = iter(answers), [], 0  # type: ignore[var-annotated]

    def __call__(self, unit: Any, *, least: int, most: int) -> Asked:
        self.asked.append((len(unit), least, most))
        return self

    def look(self) -> Answer:
        return next(self.answers)  # type: ignore[no-any-return]

    def __enter__(self) -> Asked:
        self.open += 1
        return self

    def __exit__(self, *error: object) -> None:
        self.open -= 1


def stand_in(monkeypatch: pytest.MonkeyPatch, answers: Any, *, scales: bool = True, cpus: int = 2) -> Asked:
    asked = Asked(answers)
    monkeypatch.setattr(room, "Demand", asked)
    monkeypatch.setattr(room.demand, "scales", lambda: scales)
    monkeypatch.setattr(nodes.time, "sleep", lambda seconds: None)
    for module in (room, nodes):
        monkeypatch.setattr(module, "cluster_facts", lambda without=(): ClusterFacts((NodeFacts(cpus, 0),)))
    return asked


def test_an_autoscaler_is_asked_for_all_trials_at_a_time(monkeypatch: pytest.MonkeyPatch, recipe: Recipe) -> None:
    wanted = change(recipe, {"cluster.workers": 2})
    asked = stand_in(monkeypatch, [Answer(5, 0), Answer(5, 1), Answer(5, 2), Answer(5, 2, beyond=2)])
    found = await_room(wanted, check_tune(wanted))
    assert (found.trials, found.grows) == (3, True)
    assert (asked.asked, asked.open) == ([(2, 1, 5)], 0)


def test_concurrent_trials_are_no_more_than_it_is_asked_for(monkeypatch: pytest.MonkeyPatch, recipe: Recipe) -> None:
    two = change(recipe, {"tune.concurrent": 2})
    asked = stand_in(monkeypatch, itertools.repeat(Answer(2, 1, beyond=0)))
    assert await_room(two, check_tune(two)).trials == 2
    assert asked.asked == [(1, 1, 2)]


def test_no_trial_fits_its_largest_cluster(monkeypatch: pytest.MonkeyPatch, recipe: Recipe) -> None:
    asked = stand_in(monkeypatch, itertools.repeat(Answer(5, 0, beyond=5)))
    with pytest.raises(ClusterError, match="can never hold"):
        await_room(recipe, check_tune(recipe))
    assert asked.open == 0


def test_without_an_autoscaler_the_nodes_count(monkeypatch: pytest.MonkeyPatch, recipe: Recipe) -> None:
    asked = stand_in(monkeypatch, [], scales=False, cpus=3)
    found = await_room(recipe, check_tune(recipe))
    assert (found.trials, found.grows, asked.asked) == (3, False, [])
    stand_in(monkeypatch, [], scales=False, cpus=0)
    with pytest.raises(ClusterError, match="never hold"):
        await_room(recipe, check_tune(recipe))
