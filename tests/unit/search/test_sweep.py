"""A search without training: kills, failures, budgets, populations; the trials are the same whatever happens."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
from optuna.storages import InMemoryStorage
from replay import Curve, KilledError, Player, open_sweep, search_recipe

from raysft.errors import ClusterError
from raysft.search.schedulers import TrialVerdict
from raysft.search.space import Point
from raysft.search.study import Study
from raysft.search.sweep import TrialCost, TrialEnd

SPACE: dict[str, Any] = {
    "optimizer.learning_rate": {"distribution": "loguniform", "low": 1e-5, "high": 1e-1},
    "method.rank": {"distribution": "int", "low": 2, "high": 16},
}
STEPS = 16


def curve(point: Point) -> Curve:
    """Falls to how far the point is from 3e-3 and 8."""
    far = abs(math.log10(point["optimizer.learning_rate"]) + 2.5) + abs(point["method.rank"] - 8) / 20
    return [(step, far + 3 / step) for step in range(2, STEPS + 1, 2)]


def told(study: Study) -> list[Any]:
    """All that a search has come to."""
    return [(t.number, t.point, t.state, t.values, t.curve, t.facts.get("spent")) for t in study.trials()]


@pytest.mark.parametrize("searcher", ["tpe", "cmaes", "random", "nsga2", "qmc"])
def test_a_killed_search_ends_as_the_undisturbed_one(searcher: str, tmp_path: Path) -> None:
    recipe = search_recipe(SPACE, searcher=searcher, budget={"trials": 16}, seed=3)
    database: Any = (
        f"sqlite:///{tmp_path}/study.db" if searcher == "tpe" else InMemoryStorage()
    )  # one on disk: slower
    sweep, calm = open_sweep(recipe)
    Player(curve).play(sweep)
    assert len(calm.trials()) == 16
    kinds = {trial.state for trial in calm.trials()}
    assert kinds == {"finished", "pruned"}

    draw, events = random.Random(1), 90
    player = Player(curve, kill_at=frozenset(draw.sample(range(1, events), 3)))
    for life in range(4):
        sweep, study = open_sweep(recipe, database)
        try:
            player.play(sweep)
            assert life == 3
        except KilledError:
            assert life < 3
    # what a trial cost before its driver died is in its newest report; here kills fall on reports, so nothing is lost
    assert told(study) == told(calm)
    assert [trial.number for trial in study.best()] == [trial.number for trial in calm.best()]


def test_a_trial_that_runs_when_the_driver_dies_is_gone_on_with_first() -> None:
    database = InMemoryStorage()
    recipe = search_recipe(SPACE, scheduler="none", budget={"trials": 4})
    sweep, _ = open_sweep(recipe, database)
    first, second = sweep.next(), sweep.next()
    assert first is not None
    assert second is not None
    sweep.report(second.number, 2, (1.0,), TrialCost(5.0, 10.0))
    again, study = open_sweep(recipe, database)
    resumed = [again.next(), again.next()]
    assert [(t.number, t.point) for t in resumed if t] == [(t.number, t.point) for t in (first, second)]
    again.end(second.number, TrialEnd("finished"), TrialCost(7.0, 14.0))
    assert study.trials()[1].facts["spent"][1] == 24.0  # both lives are paid for


def test_failures_and_losses_do_not_end_the_search() -> None:
    sweep, study = open_sweep(search_recipe(SPACE, scheduler="none", budget={"trials": 4}))
    for reason in ("OutOfMemoryError: 8 GiB", ""):
        trial = sweep.next()
        assert trial is not None
        if reason:
            assert sweep.end(trial.number, TrialEnd("failed", reason)) == "failed"
        else:
            assert sweep.report(trial.number, 2, (math.nan,), TrialCost(1, 1)) is TrialVerdict.STOP
            assert sweep.end(trial.number, TrialEnd("interrupted")) == "failed"
    for _ in range(2):  # a process that died: the trial goes on
        trial = sweep.next()
        assert trial is not None
        assert trial.number == 2
        assert sweep.end(2, TrialEnd("lost", "node died")) == "running"
    assert sweep.next() is not None
    assert sweep.end(2, TrialEnd("lost", "node died")) == "failed"
    last = sweep.next()
    assert last is not None
    assert sweep.end(last.number, TrialEnd("finished")) == "failed"  # it reported nothing
    assert sweep.next() is None
    assert sweep.is_over
    whys = [trial.facts["why"] for trial in study.trials()]
    assert whys[0] == "OutOfMemoryError: 8 GiB"
    assert "not finite at step 2" in whys[1]
    assert "3 times" in whys[2]
    assert "never reported held_out/loss" in whys[3]
    assert study.best() == []


def test_points_that_cannot_run_cost_nothing_and_do_not_count() -> None:
    def admit(point: Point) -> str | None:
        return "too large" if point["method.rank"] > 8 else None

    sweep, study = open_sweep(search_recipe(SPACE, budget={"trials": 6}), admit=admit)
    player = Player(curve)
    player.play(sweep)
    ran = [trial for trial in study.trials() if "refused" not in trial.facts]
    assert len(ran) == 6
    assert len(study.trials()) > 6
    assert all(trial.point["method.rank"] <= 8 for trial in ran)
    sweep, _ = open_sweep(search_recipe(SPACE, searcher="random", budget={"trials": 6}), admit=lambda point: "no")
    with pytest.raises(ClusterError, match="200 points in a row"):
        sweep.next()


def test_core_hours_end_the_search_and_a_larger_budget_goes_on() -> None:
    database = InMemoryStorage()
    for limit, trials in ((40 / 3600, 3), (1000 / 3600, 5)):
        budget = {"core_hours": limit, "trials": 5}
        sweep, study = open_sweep(search_recipe(SPACE, scheduler="none", budget=budget), database)
        player = Player(curve, done={t.number: t.curve[-1][0] if t.curve else 0 for t in study.trials()})
        player.play(sweep)
        assert len(study.trials()) == trials
    assert {trial.state for trial in study.trials()} == {"finished"}
    assert sum(trial.facts["spent"][1] for trial in study.trials()) == 5 * STEPS


def test_starts_come_first_and_a_grid_is_walked_once() -> None:
    start = [{"method.rank": 5}, {"method.rank": 7, "optimizer.learning_rate": 1e-3}]
    sweep, study = open_sweep(search_recipe(SPACE, budget={"trials": 3}, start=start))
    Player(curve).play(sweep)
    assert [trial.point["method.rank"] for trial in study.trials()][:2] == [5, 7]
    assert study.trials()[1].point["optimizer.learning_rate"] == 1e-3
    space = {
        "optimizer.learning_rate": {"distribution": "loguniform", "low": 1e-4, "high": 1e-2, "points": 3},
        "method.rank": {"distribution": "choice", "values": [4, 8]},
    }
    sweep, study = open_sweep(search_recipe(space, searcher="grid", scheduler="none"))
    Player(curve, concurrent=2).play(sweep)
    points = {
        (round(math.log10(t.point["optimizer.learning_rate"]), 9), t.point["method.rank"]) for t in study.trials()
    }
    assert points == {(power, rank) for power in (-4, -3, -2) for rank in (4, 8)}
    assert len(study.trials()) == 6


def test_what_is_said_after_the_verdict_changes_nothing() -> None:
    sweep, study = open_sweep(search_recipe(SPACE, budget={"trials": 2}))
    one, two = sweep.next(), sweep.next()
    assert one is not None
    assert two is not None
    sweep.report(one.number, 2, (1.0,), TrialCost(1, 1))
    assert sweep.report(two.number, 2, (2.0,), TrialCost(1, 1)) is TrialVerdict.STOP
    assert sweep.report(two.number, 4, (0.1,), TrialCost(2, 2)) is TrialVerdict.STOP
    assert sweep.end(two.number, TrialEnd("finished"), TrialCost(3, 3)) == "pruned"
    assert study.trials()[1].curve == ((2, 2.0),)
    assert study.trials()[1].facts["spent"][1] == 3


@pytest.mark.parametrize(
    ("gap", "every", "steps"), [(4, 2, [4, 8, 12, 16, 20]), (5, 2, [6, 10, 16, 20]), (4, 8, [8, 16])]
)
def test_members_of_a_population_pause_at_the_first_report_of_a_round(gap: int, every: int, steps: list[int]) -> None:
    space = {"optimizer.learning_rate": SPACE["optimizer.learning_rate"]}
    scheduler = {"kind": "pbt", "min_steps": gap}
    sweep, study = open_sweep(search_recipe(space, scheduler=scheduler, budget={"trials": 2}, every=every))
    trial = sweep.next()
    assert trial is not None
    found = []
    for step in range(every, 23, every):
        if sweep.report(trial.number, step, (1.0,), TrialCost(1, 1)) is TrialVerdict.PAUSE:
            assert sweep.pause_step(trial) == step
            found.append(step)
            study.note(trial.number, "round", step)
            sweep.end(trial.number, TrialEnd("interrupted"))
            study.note(trial.number, "waits", False)
            trial = sweep.next()
            assert trial is not None
            assert trial.number == 0
    assert found == steps


def test_a_population_copies_its_best() -> None:
    space = {"optimizer.learning_rate": SPACE["optimizer.learning_rate"]}
    scheduler = {"kind": "pbt", "min_steps": 4, "quantile": 0.25}
    recipe = search_recipe(space, searcher="random", scheduler=scheduler, budget={"trials": 4}, seed=1)
    sweep, study = open_sweep(recipe)
    Player(lambda point: curve({**point, "method.rank": 8}), concurrent=2).play(sweep)
    trials = study.trials()
    children = [trial for trial in trials if "copies" in trial.facts]
    assert len(children) == 3  # a round at 4, 8 and 12 steps, one of four replaced each time
    assert sum(trial.state == "finished" for trial in trials) == 4
    for child in children:
        source, loser = trials[child.facts["copies"]], trials[child.facts["replaces"]]
        assert loser.state == "pruned"
        at = loser.curve[-1][0]
        assert at in (4, 8, 12)
        assert child.curve[: len(loser.curve)] == source.curve[: len(loser.curve)]
        assert dict(source.curve)[at] < dict(loser.curve)[at]
        ratio = child.point["optimizer.learning_rate"] / source.point["optimizer.learning_rate"]
        assert ratio == pytest.approx(0.8) or ratio == pytest.approx(1.2)
