"""Sequence parallelism follows the same curve, over ZeRO stages, restarts; attention that leaks does not.

Rows hold several segments, and borders of parts lie within segments. `make parity-full` runs the larger layouts.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from bench import LORA, TOLERANCE, Bench, cells, furthest
from material import CONFIG

SP2: dict[str, Any] = {"parallel__sequence": 2}
SLIDING = {"model_type": "gemma3_text", "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 16}


def follows(results: list[dict[str, Any]], base: dict[str, Any], first: int = 0) -> None:
    """Every rank tells the same, and it is the curve."""
    for name in ("losses", "norms", "weights", "held_out", "skipped"):
        assert all(result[name] == results[0][name] for result in results)
    assert results[0]["first"] == first
    until = first + len(results[0]["losses"])
    assert furthest(results[0]["losses"], base["losses"][first:until]) < TOLERANCE
    assert furthest(results[0]["norms"], base["norms"][first:until]) < TOLERANCE


@pytest.mark.parametrize(("zero", "micro"), cells((0, 1), (2, 2), (3, 1), often=((2, 2), (3, 1))))
def test_parts_of_rows(bench: Bench, zero: int, micro: int) -> None:
    results = bench.cell(2, parallel__zero=zero, train__micro_batch_rows=micro, **SP2)
    follows(results, bench.base)
    assert furthest([results[0]["held_out"]], [bench.base["held_out"]]) < TOLERANCE
    assert [
        sorted(i for part in step for i in part) for step in zip(*(r["samples"] for r in results), strict=True)
    ] == [sorted(step) for step in bench.base["samples"]]


def test_attention_that_leaks_is_refused_and_would_leave_the_curve(bench: Bench) -> None:
    for rank in bench.cell(2, mutant="leak", **SP2):
        assert re.search(r"log-probabilities that differ by .* parallel.sequence = 2", rank["refused"])
    for rank in bench.cell(2, mutant="leak_unseen", check=True, **SP2):
        assert "packed samples see each other in the engine" in rank["refused"]
    result = bench.cell(2, mutant="leak_unseen", **SP2)[0]
    assert furthest(result["losses"], bench.base["losses"]) > 10 * TOLERANCE  # random letters: little to learn there
    assert furthest(result["norms"], bench.base["norms"]) > 100 * TOLERANCE


def test_checkpointing_odd_rows_and_windows(bench: Bench) -> None:
    """Unpacked rows have lengths that two ranks do not divide."""
    unpacked = {"data__packing": False, "train__micro_batch_rows": 2}
    for change in ({"train__gradient_checkpointing": True}, unpacked):
        follows(bench.cell(2, **SP2, **change), bench.base)
    windows = {"model__config": CONFIG | SLIDING | {"head_dim": 16}}
    follows(bench.cell(2, until=8, **SP2, **windows), bench.cell(1, until=8, **windows)[0])


def test_adapters(bench: Bench) -> None:
    base = bench.cell(1, until=8, **LORA)[0]
    for zero in (0, 1, 2, 3):
        follows(bench.cell(2, until=8, parallel__zero=zero, **SP2, **LORA), base)


@pytest.mark.parametrize("method", cells("full", "lora", often=("full",)))
@pytest.mark.parametrize("zero", cells(1, 2, 3, often=(3,)))
def test_bf16_resumes_bit_identically(bench: Bench, tmp_path: Path, zero: int, method: str) -> None:
    change = {"parallel__zero": zero, "train__precision": "bf16"} | (LORA if method == "lora" else {})
    base = bench.cell(1, until=4, **change)[0]
    whole = bench.cell(2, until=4, **SP2, **change)[0]
    first = bench.cell(2, until=2, save=True, run=str(tmp_path), **SP2, **change)[0]
    second = bench.cell(2, until=4, run=str(tmp_path), **SP2, **change)[0]
    assert first["losses"] + second["losses"] == whole["losses"]
    assert second["weights"] == whole["weights"]
    assert furthest(whole["losses"], base["losses"]) < 5e-3


def test_a_run_goes_to_parts_of_rows_and_back(bench: Bench, tmp_path: Path) -> None:
    for workers, layout, first, until in (
        (2, {"parallel__zero": 2}, 0, 5),
        (2, SP2 | {"parallel__zero": 1}, 5, 9),
        (1, {"parallel__zero": 0}, 9, 12),
    ):
        follows(bench.cell(workers, until=until, save=True, run=str(tmp_path), **layout), bench.base, first)


def test_dropout_differs_between_the_parts_of_a_row(bench: Bench) -> None:
    wet = LORA | SP2 | {"method__dropout": 0.5, "until": 3}
    one, again = bench.cell(2, **wet), bench.cell(2, **wet)
    assert one[0]["losses"] == again[0]["losses"]
    assert furthest(one[0]["losses"], bench.cell(1, until=3, **LORA)[0]["losses"]) > 10 * TOLERANCE


@pytest.mark.full
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_parts_and_replicas(bench: Bench, zero: int) -> None:
    follows(bench.cell(4, parallel__zero=zero, train__micro_batch_rows=2, **SP2), bench.base)


@pytest.mark.full
def test_more_ranks_than_heads_of_keys(bench: Bench) -> None:
    """Two heads of keys and values over four ranks: each is held twice."""
    follows(bench.cell(4, parallel__zero=1, parallel__sequence=4), bench.base)
