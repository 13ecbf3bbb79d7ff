"""Two terms with different units give one curve, whatever the split; held-out and training losses obey one law.

The objective of these cells (engine_process.py) has the same sum twice: N / target tokens + 0.02 N / segments.
"""

from __future__ import annotations

from typing import Any

import pytest
from bench import TOLERANCE, Bench, cells, furthest
from material import make_samples
from reference import tokens_and_targets

UNTIL = 6


def two_terms(bench: Bench, workers: int = 1, **changes: Any) -> dict[str, Any]:
    return bench.cell(workers, two_terms=True, until=UNTIL, **changes)[0]


@pytest.fixture(scope="module")
def base(bench: Bench) -> dict[str, Any]:
    return two_terms(bench)


def test_the_loss_is_that_of_a_formula(bench: Bench, base: dict[str, Any]) -> None:
    """By hand from the plain loss at the same weights, the samples of the step, and their targets."""
    targets = [sum(tokens_and_targets(bench.tokenizer, q, a)[1]) for q, a in make_samples()]
    step, other = (bench.base["samples"][number] for number in (0, 1))
    count = sum(targets[sample] for sample in step)
    total = bench.base["losses"][0] * count
    expected = total / count + 0.02 * total / len(step)
    assert base["losses"][0] == pytest.approx(expected, rel=1e-5)
    assert base["held_out_first"]["loss"] == pytest.approx(base["losses"][0], rel=1e-6)
    units = base["held_out_both"]["units"]
    assert units == {"by_token": count + sum(targets[sample] for sample in other), "by_segment": len(step + other)}


SPLITS: dict[str, dict[str, Any]] = {
    "ZeRO 0, micro-batch 4": {"parallel__zero": 0, "train__micro_batch_rows": 4},
    "ZeRO 1": {"parallel__zero": 1},
    "ZeRO 2, micro-batch 2": {"parallel__zero": 2, "train__micro_batch_rows": 2},
    "ZeRO 3, micro-batch 2": {"parallel__zero": 3, "train__micro_batch_rows": 2},
    "2 pipeline stages": {"parallel__pipeline": 2, "parallel__zero": 1},
    "sequence parallel 2": {"parallel__sequence": 2, "parallel__zero": 2},
    "tensor parallel 2": {"parallel__tensor": 2, "parallel__zero": 1},
    "unpacked": {"data__packing": False, "parallel__zero": 1},
}


@pytest.mark.parametrize(
    "split", cells(*SPLITS, often=("ZeRO 3, micro-batch 2", "2 pipeline stages", "sequence parallel 2"))
)
def test_every_split_has_the_curve(bench: Bench, base: dict[str, Any], split: str) -> None:
    found = two_terms(bench, 2, **SPLITS[split])
    assert furthest(found["losses"], base["losses"]) < TOLERANCE
    assert furthest(found["norms"], base["norms"]) < TOLERANCE
    assert found["held_out_first"]["loss"] == pytest.approx(found["losses"][0], rel=1e-6)
    assert found["held_out_both"]["loss"] == pytest.approx(base["held_out_both"]["loss"], rel=1e-5)
    assert found["held_out_both"]["units"] == base["held_out_both"]["units"]


def test_a_sum_before_the_division_is_noticed(bench: Bench, base: dict[str, Any]) -> None:
    mutant = two_terms(bench, 2, mutant="all_over_all", parallel__zero=2)
    assert furthest(mutant["losses"], base["losses"]) > 100 * TOLERANCE
    assert furthest(mutant["norms"], base["norms"]) > 100 * TOLERANCE
