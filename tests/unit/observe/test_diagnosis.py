"""Planted faults are found, each by its rule; healthy curves, of real small runs and planned, are not accused."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
from curves import cosine, planned
from fakes import make_recipe

from raysft.observe.diagnosis import AT_LEAST, LOCAL, RULES, _far_above, diagnose
from raysft.recipe.change import change
from raysft.train.history.records import of_lineage

RECIPE = make_recipe(optimizer={"learning_rate": 1e-3})
RECORDED = json.loads((Path(__file__).parent / "recorded_runs.json").read_text())
"""Losses of runs of a Llama of 118,592 weights at a rate of 5e-3: `healthy` on 5,700 words to be reversed; `overfit`
on 90 words with answers by chance; `hot` as the first, at a rate of 0.5."""


def decay(step: int, start: float = 5.3, end: float = 2.0, steps: float = 30.0) -> float:
    return end + (start - end) * math.exp(-step / steps)


def held(points: dict[int, float]) -> dict[int, float]:
    return {0: decay(0), **points}


def every_30(value: Any) -> dict[int, float]:
    return {step: value(step) for step in range(0, 301, 30)}


def rules(lines: list[dict[str, Any]]) -> list[str]:
    found = diagnose(lines, RECIPE)
    for one in found:
        assert one.what
        assert one.evidence
        assert one.threshold
        assert one.advice
        fields = dict(setting.split("=") for setting in one.settings)
        change(RECIPE, {name: json.loads(value) for name, value in fields.items()})  # is a recipe
    return [one.rule for one in found]


def recorded(name: str) -> list[dict[str, Any]]:
    run = RECORDED[name]
    count = len(run["losses"])
    lines = [
        {"kind": "step", "step": i + 1, "loss": loss, "grad_norm": norm, "skipped": False}
        | {"learning_rate": 5e-3 * cosine(i + 1, count, 10)}
        for i, (loss, norm) in enumerate(zip(run["losses"], run["norms"], strict=True))
    ]
    return lines + [{"kind": "eval", "step": step, "loss": loss} for step, loss in run["held_out"]]


def test_real_runs() -> None:
    assert rules(recorded("healthy")) == []
    found = diagnose(recorded("overfit"), RECIPE)
    assert [one.rule for one in found] == ["over_fitting"]
    assert "held out 2.78 at step 40" in found[0].evidence
    assert found[0].settings == ("checkpoint.keep_best=true", "train.max_steps=40")
    assert rules(recorded("hot")) == ["learning_rate_high"]


@pytest.mark.parametrize("length", [25, 40, 75, 150])
def test_the_beginning_of_a_healthy_run_is_not_accused_of_what_only_the_end_can_show(length: int) -> None:
    lines = [line for line in recorded("healthy") if line["step"] <= length]
    assert rules(lines) == []


HEALTHY = {
    "from chance": planned(decay, held_out=every_30(lambda s: decay(s) + 0.1)),
    "to nothing": planned(lambda s: decay(s, end=0.0) + 1e-4, held_out=every_30(lambda s: decay(s, end=0.0) + 2e-4)),
    "fine-tuning": planned(
        lambda s: decay(s, 1.4, 1.15, 60), held_out=every_30(lambda s: decay(s, 1.42, 1.2, 60)), noise=0.08
    ),
    "fine-tuning, noisy": planned(lambda s: decay(s, 1.4, 1.1, 60), noise=0.2),
    "a power of the step": planned(lambda s: 5.5 * (1 + s) ** -0.2, 1000),
    "norms that fall by far": planned(decay, norm=lambda s: 8 * math.exp(-s / 40) + 0.01, noise=0.3),
    "held out before and after": planned(decay, held_out={0: 5.4, 300: 2.2}),
    "held out easier from the start": planned(decay, held_out=every_30(lambda s: 0.6 * decay(s))),
    "a little worse at the end": planned(decay, held_out=every_30(lambda s: decay(s) + 1e-4 * s)),
    "preferences": planned(lambda s: decay(s, 0.69, 0.3, 60), held_out=every_30(lambda s: decay(s, 0.69, 0.45, 60))),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_run_is_not_accused(name: str) -> None:
    assert rules(HEALTHY[name]) == []


def test_healthy_runs_of_all_lengths_and_noises_are_not_accused() -> None:
    dice = random.Random(1)
    accused = []
    for seed in range(60):
        count, noise = dice.choice([30, 60, 120, 400]), dice.choice([0.02, 0.05, 0.1])
        start = dice.choice([1.5, 3.0, 6.0])
        end, pace = start * dice.uniform(0.3, 0.75), count * dice.uniform(0.12, 0.3)

        def loss(step: int, s: float = start, e: float = end, p: float = pace) -> float:
            return decay(step, s, e, p)

        points = {step: loss(step) * 1.03 for step in range(0, count + 1, count // 6)}
        accused += rules(planned(loss, count, held_out=points, noise=noise, seed=seed))
    assert accused == []


def overshoot(step: int) -> float:
    return 5.3 if step < 4 else 3.6 + 9.0 * math.exp(-(step - 4) / 20)


def turns(step: int) -> float:
    return decay(step) if step < 150 else decay(150) + 0.02 * (step - 150)


def plain(step: int) -> float:
    return decay(step, steps=12.0)


PLANTED: dict[str, tuple[list[dict[str, Any]], list[str]]] = {
    "a rate 100 times too high": (planned(overshoot), ["learning_rate_high"]),
    "it explodes and stays": (planned(lambda s: 5.3 if s < 5 else 11.0), ["diverged", "learning_rate_high"]),
    "it turns round": (planned(turns), ["diverged"]),
    "it turns round, held out too": (planned(turns, held_out=every_30(turns)), ["diverged"]),
    "nothing is learned": (planned(lambda s: 5.3), ["under_fitting"]),
    "hardly anything is learned": (
        planned(lambda s: 5.3 - 0.0003 * s, held_out=every_30(lambda s: 5.3 - 0.0003 * s)),
        ["under_fitting"],
    ),
    "it falls as the rate is spent": (
        planned(lambda s: 5.3 - 1.2 * sum(cosine(i, 300) for i in range(s)) / 150, noise=0.01),
        ["learning_rate_low"],
    ),
    "by heart": (
        planned(lambda s: decay(s, end=0.3, steps=60), held_out=every_30(lambda s: decay(s) + 0.01 * s)),
        ["over_fitting"],
    ),
    "by heart, measured before and after": (
        planned(lambda s: decay(s, end=0.3, steps=60), held_out={0: 5.4, 300: 3.0}),
        ["over_fitting"],
    ),
    "held out was trained on": (
        planned(decay, held_out=every_30(lambda s: decay(s, end=0.4, steps=40))),
        ["leakage"],
    ),
    "one bad batch": (planned(lambda s: plain(s) + 6.0 * (s == 137)), ["bad_batch"]),
    "two norms": (planned(decay, norm=lambda s: 60.0 if s in (120, 250) else 1.0), ["gradient_spikes"]),
    "two thirds for nothing": (
        planned(plain, held_out=every_30(lambda s: plain(s) + 0.05)),
        ["plateau"],
    ),
    "gradients that are no numbers": (planned(decay, skipped=(50, 51, 52)), ["not_finite"]),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found_by_its_rule(name: str) -> None:
    lines, expected = PLANTED[name]
    assert rules(lines) == expected


def test_every_rule_can_speak() -> None:
    names = {rule for _, expected in PLANTED.values() for rule in expected}
    assert len(names) == len(RULES)


def test_the_steps_of_bad_batches_are_named() -> None:
    (found,) = diagnose(planned(lambda s: plain(s) + 6.0 * (s in (137, 200))), RECIPE)
    assert sorted(found.steps) == [137, 200]
    assert "2 steps have" in found.what


def test_whatever_was_recorded_is_no_trouble() -> None:
    """At the end of a run nothing may fail for the sake of its diagnosis."""
    dice = random.Random(3)
    odd = (0.0, -1.0, 1e-30, 1e30, math.nan, math.inf, 2.0, 2.0, 2.0)
    for seed in range(150):
        lines = planned(
            lambda step: dice.choice(odd),
            dice.choice([20, 33, 90]),
            held_out=every_30(lambda s: dice.choice(odd)),
            seed=seed,
        )
        for one in diagnose(lines, RECIPE):
            assert one.evidence
    assert rules(planned(lambda s: 0.0 if s > 9 else 1.0, noise=0.0)) == []
    assert rules(planned(lambda s: 0.0 if s != 40 else 9.0, noise=0.0)) in ([], ["bad_batch"])
    falling = planned(lambda s: 1.0 - 0.01 * s, held_out=every_30(lambda s: 1.0 - 0.01 * s))
    assert rules(falling) == []  # a loss that becomes negative


@pytest.mark.parametrize("count", [0, 1, AT_LEAST - 1])
def test_of_a_few_steps_nothing_is_said(count: int) -> None:
    assert rules(planned(lambda s: 5.0 + s, count)) == []


def test_lines_of_earlier_versions_and_odd_numbers_are_no_trouble() -> None:
    lines = planned(decay, held_out={0: 5.0, 100: 3.0})
    for line in lines:
        line.pop("grad_norm", None)
    lines.append({"kind": "eval", "step": 200, "loss": None, "sets": {}})
    lines.append({"kind": "start", "step": 0})
    lines += [{**lines[0], "kind": "step", "step": 301, "loss": math.nan, "skipped": False, "learning_rate": 0.0}]
    assert rules(lines) == []


def test_a_loss_that_rises_while_the_model_learns_is_not_what_is_judged() -> None:
    """Under dft a target costs p x -log p: next to nothing at the beginning, most at p = 1/e."""

    def chance(step: int) -> float:
        return math.exp(-decay(step, 6.0, 0.8, 60.0))

    lines = planned(lambda step: -chance(step) * math.log(chance(step)), held_out=every_30(lambda step: 0.3))
    told = [{**line, "metrics": {"nll": -math.log(chance(line["step"]))}} for line in lines]
    assert diagnose(told, make_recipe(objective="dft", optimizer={"learning_rate": 1e-3})) == []
    assert diagnose(told, RECIPE), "by the loss it would be accused"


def test_losses_far_above_are_found_in_one_pass() -> None:
    draw = random.Random(3)
    losses = [draw.choice((1.0, 2.0, 4.0, 0.5)) * draw.random() for _ in range(400)]
    expected = [at for at in range(8, 400) if losses[at] > 1.5 * min(losses[max(0, at - LOCAL) : at])]
    assert list(_far_above(losses)) == expected
    assert 0 < len(expected) < 392


def test_a_resumed_run_is_judged_by_the_steps_that_count() -> None:
    """Attempt 1 went wrong after the commit at step 100; attempt 2 did its steps again, and they were healthy."""
    healthy = planned(decay, held_out=every_30(lambda s: decay(s) + 0.1))
    wrong = [{**line, "loss": 50.0, "grad_norm": 900.0} for line in healthy if line["kind"] == "step"]
    first = [line for line in healthy if line["step"] <= 100] + [line for line in wrong if 100 < line["step"] <= 130]
    every = {1: first, 2: [line for line in healthy if line["step"] > 100]}
    lines = of_lineage(every, [(1, 0, 100), (2, 100, None)])
    assert sorted(line["step"] for line in lines) == sorted(line["step"] for line in healthy)
    assert rules(lines) == []
    assert "diverged" in rules([*first, *([{**first[-1], "step": step} for step in range(131, 161)])])
