"""Early stopping by hand-worked cases, and against Optuna's own successive halving."""

from __future__ import annotations

import random

import optuna
import pytest

from raysft.recipe.tune import Scheduler
from raysft.search.schedulers import TABLE, Curves, TrialVerdict, judge, pbt_copies, with_rungs

GO_ON, STOP, PAUSE = TrialVerdict.GO_ON, TrialVerdict.STOP, TrialVerdict.PAUSE


def rules(kind: str, min_steps: int = 2, reduction: int = 2, **more: float) -> Scheduler:
    return Scheduler.model_validate({"kind": kind, "min_steps": min_steps, "reduction": reduction, **more})


def test_every_name_of_a_recipe_is_in_the_table() -> None:
    kinds = Scheduler.model_json_schema()["properties"]["kind"]["enum"]
    assert set(kinds) == TABLE.keys()


@pytest.mark.parametrize(
    ("curves", "expected"),
    [
        ({0: [(2, 5.0)]}, GO_ON),  # alone: the best
        ({0: [(2, 5.0)], 1: [(2, 6.0)]}, GO_ON),
        ({0: [(2, 5.0)], 1: [(2, 4.0)]}, STOP),
        ({0: [(2, 5.0)], 1: [(2, 4.0)], 2: [(2, 7.0)], 3: [(2, 8.0)]}, GO_ON),  # second of four
        ({0: [(2, 5.0)], 1: [(2, 4.0)], 2: [(2, 3.0)], 3: [(2, 8.0)]}, STOP),  # third of four
        ({0: [(1, 5.0)], 1: [(1, 4.0)]}, GO_ON),  # before the first rung
        ({0: [(2, 1.0), (3, 9.0)], 1: [(2, 2.0), (3, 1.0)]}, GO_ON),  # between rungs
        ({0: [(2, 1.0), (4, 9.0)], 1: [(2, 2.0), (4, 1.0)]}, STOP),  # at the second
        ({0: [(3, 5.0)], 1: [(2, 4.0), (3, 6.0)]}, STOP),  # a rung counts by the first report at or after it
    ],
)
def test_asha(curves: Curves, expected: TrialVerdict) -> None:
    assert judge(rules("asha"), 0, curves) is expected


def test_asha_agrees_with_optuna() -> None:
    """The same reports in the same order, judged by Optuna's SuccessiveHalvingPruner."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=2, reduction_factor=3)
    study, draw = optuna.create_study(pruner=pruner), random.Random(0)
    ours: dict[int, list[tuple[int, float]]] = {}
    trials = {number: study.ask() for number in range(12)}
    stopped: set[int] = set()
    judged = 0
    for step in range(1, 20):
        for number, trial in trials.items():
            if number in stopped:
                continue
            value = draw.random() + number / 6
            trial.report(value, step)
            ours.setdefault(number, []).append((step, value))
            theirs = trial.should_prune()
            mine = judge(rules("asha", 2, 3), number, ours) is STOP
            assert mine == theirs, (number, step)
            judged += theirs
            if theirs:
                stopped.add(number)
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    assert judged >= 6


def test_hyperband_judges_within_a_bracket() -> None:
    curves = {number: [(2, float(number))] for number in range(4)}
    assert judge(rules("hyperband"), 3, curves) is STOP  # bracket 0 with trial 0, which is better
    assert judge(rules("hyperband"), 1, curves) is GO_ON  # bracket 1: first rung at 4
    curves = {1: [(4, 1.0)], 4: [(4, 2.0)], 0: [(4, 0.0)], 7: [(4, 9.0)]}
    assert judge(rules("hyperband"), 1, curves) is GO_ON
    assert judge(rules("hyperband"), 4, curves) is STOP


def test_median() -> None:
    others: Curves = {1: [(2, 4.0), (4, 2.0)], 2: [(2, 6.0), (4, 2.0)], 3: [(2, 9.0), (4, 9.0)]}  # means 3, 4, 9
    assert judge(rules("median"), 0, {0: [(2, 8.0), (4, 3.9)], **others}) is GO_ON
    assert judge(rules("median"), 0, {0: [(2, 8.0), (4, 4.1)], **others}) is STOP
    assert judge(rules("median"), 0, {0: [(2, 1.0), (4, 8.0)], **others}) is GO_ON  # its best counts
    assert judge(rules("median"), 0, {0: [(4, 99.0)], 1: others[1], 2: others[2]}) is GO_ON  # too few others
    assert judge(rules("median", 5), 0, {0: [(4, 99.0)], **others}) is GO_ON  # too early


def test_none() -> None:
    assert judge(rules("none"), 0, {0: [(2, 9.0)], 1: [(2, 1.0)]}) is GO_ON


def test_a_population_waits_at_each_round_and_the_worst_copy_the_best() -> None:
    pbt = rules("pbt", 4, quantile=0.25)
    assert judge(pbt, 0, {0: [(2, 1.0)]}) is GO_ON
    assert judge(pbt, 0, {0: [(2, 1.0), (4, 1.0)]}) is PAUSE
    assert judge(pbt, 0, {0: [(2, 1.0), (4, 1.0), (6, 1.0)]}) is GO_ON
    assert judge(pbt, 0, {0: [(3, 1.0), (5, 1.0)]}) is PAUSE
    curves = {number: [(4, float(number))] for number in range(8)}
    assert pbt_copies(pbt, curves, lambda count: count - 1) == {6: 1, 7: 1}
    assert pbt_copies(pbt, {0: [(4, 1.0)]}, lambda count: 0) == {}


def test_the_first_rung_is_the_first_report_unless_given() -> None:
    assert with_rungs(Scheduler(), 5).min_steps == 5
    assert with_rungs(rules("asha", 3), 5).min_steps == 3
    assert with_rungs(Scheduler(), None).min_steps == 1
