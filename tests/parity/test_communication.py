"""How workers talk does not change the curve, except where gradients are rounded: then by a stated bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bench import TOLERANCE, Bench, cells, furthest
from test_sequence import follows

ROUNDED_LOSS, ROUNDED_NORM = 1e-4, 1e-3
"""Of fp32 runs whose gradients travel in bf16 (measured: 2e-5 and 3.5e-4)."""


@pytest.mark.parametrize("zero", cells(1, 2, 3, often=(2,)))
def test_overlap(bench: Bench, zero: int) -> None:
    """On a CPU nothing overlaps: this is DeepSpeed's other path through its buffers."""
    follows(bench.cell(2, parallel__zero=zero, parallel__overlap=True), bench.base)


@pytest.mark.parametrize("zero", cells(0, 2, 3, often=(2,)))
def test_gradients_in_bf16(bench: Bench, zero: int) -> None:
    results = bench.cell(2, parallel__zero=zero, train__reduce_precision="bf16")
    losses, norms = (furthest(results[0][name], bench.base[name]) for name in ("losses", "norms"))
    assert TOLERANCE < losses < ROUNDED_LOSS
    assert TOLERANCE < norms < ROUNDED_NORM
    assert results[0]["weights"] == results[1]["weights"]


@pytest.mark.parametrize("zero", cells(1, 2, 3, often=(1,)))
def test_bf16_with_gradients_in_fp32(bench: Bench, zero: int) -> None:
    cell: dict[str, Any] = {"parallel__zero": zero, "train__precision": "bf16", "until": 4}
    results = bench.cell(2, train__reduce_precision="fp32", **cell)
    assert furthest(results[0]["losses"], bench.base["losses"][:4]) < 5e-3


@pytest.mark.parametrize("offload", ["none", "cpu"])
@pytest.mark.parametrize("zero", cells(1, 2, 3, often=(1,)))
def test_no_micro_batch_is_left_out_in_bf16(bench: Bench, zero: int, offload: str) -> None:
    """DeepSpeed once did not reduce the last one under ZeRO 1, and dropped all but the first with offload."""
    cell: dict[str, Any] = {
        "parallel__zero": zero,
        "parallel__offload": offload,
        "train__precision": "bf16",
        "until": 2,
    }
    result = bench.cell(2, **cell)[0]
    assert len(result["micro_targets"][0]) == 4
    assert furthest(result["norms"], bench.base["norms"][:2]) < 0.02
    mutant = bench.cell(2, mutant="without_last", **cell)[0]
    assert furthest(mutant["norms"], bench.base["norms"][:2]) > 0.05


def test_a_second_copy_of_the_weights(bench: Bench, tmp_path: Path) -> None:
    cell: dict[str, Any] = {"parallel__zero": 3, "parallel__secondary_shards": 2}
    follows(bench.cell(2, until=6, save=True, run=str(tmp_path), **cell), bench.base)
    follows(bench.cell(2, until=9, run=str(tmp_path), **cell), bench.base, first=6)


@pytest.mark.full
def test_second_copies_of_four_workers(bench: Bench) -> None:
    follows(bench.cell(4, parallel__zero=3, parallel__secondary_shards=2), bench.base)
