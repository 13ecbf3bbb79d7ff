"""What a trial reports of the lines that its run records."""

from __future__ import annotations

import math
from typing import Any

import pytest

from raysft.recipe.tune import COSTS
from raysft.search.trial_metrics import TABLE, readings


def step(number: int, loss: float, tokens_per_s: float, peak: int) -> dict[str, Any]:
    return {"kind": "step", "step": number, "loss": loss, "tokens_per_s": tokens_per_s, "peak_bytes": peak}


LINES = [
    {"kind": "start", "step": 0},
    {"kind": "eval", "step": 0, "loss": 9.0},
    step(1, 8.0, 10.0, 5),
    step(2, 6.0, 30.0, 7),
    {"kind": "eval", "step": 2, "loss": 5.0},
    step(3, 4.0, 20.0, 6),
    step(4, 2.0, 20.0, 6),
    {"kind": "eval", "step": 4, "loss": 3.0},
]


def test_every_metric_has_a_reading() -> None:
    assert TABLE.keys() == COSTS.keys()


def test_at_each_held_out_loss() -> None:
    found = readings(LINES, ("held_out/loss", "train_loss", "tokens_per_s", "peak_bytes"), 2, 4)
    assert found == [(2, (5.0, 7.0, 20.0, 7.0)), (4, (3.0, 5.0, 20.0, 7.0))]
    assert readings(LINES[:3], ("held_out/loss",), 2, 4) == []


def test_terms_and_metrics_of_held_out_rows_by_name() -> None:
    evals = [
        {"kind": "eval", "step": at, "loss": 1.0, "terms": {"dpo": 0.5 / at}, "metrics": {"accuracy": 0.25 * at}}
        for at in (2, 4)
    ]
    lines = [*(line for line in LINES if line["kind"] != "eval"), *evals]
    found = readings(lines, ("held_out/accuracy", "held_out/dpo", "held_out/loss"), 2, 4)
    assert found == [(2, (0.5, 0.25, 1.0)), (4, (1.0, 0.125, 1.0))]
    assert readings(LINES[:3], ("held_out/accuracy",), 2, 4) == []
    ((_, (missing,)), _) = readings(lines, ("held_out/margin",), 2, 4)
    assert math.isnan(missing), "a term without units in these rows"


@pytest.mark.parametrize(("every", "steps"), [(None, [4]), (2, [2, 4]), (3, [3, 4])])
def test_without_held_out_data_at_the_same_steps_and_the_last(every: int | None, steps: list[int]) -> None:
    lines = [line for line in LINES if line["kind"] != "eval"]
    assert [at for at, _ in readings(lines, ("train_loss",), every, 4)] == steps
    assert readings(lines[:3], ("train_loss",), None, 4) == []


def test_measures_of_named_sets() -> None:
    sets = {"dev": {"loss": 0.75, "terms": {"dpo": 0.7}, "metrics": {"accuracy": 0.5}, "perplexity": None}}
    lines = [*LINES[2:4], {"kind": "eval", "step": 2, "loss": None, "perplexity": None, "sets": sets}]
    assert readings(lines, ("dev/loss", "dev/accuracy", "train_loss"), 2, 4) == [(2, (0.75, 0.5, 7.0))]
    ((_, missing),) = readings(lines, ("held_out/loss", "dev/margin"), 2, 4)
    assert all(map(math.isnan, missing))
