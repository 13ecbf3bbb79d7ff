"""Losses, gradient norms, held-out losses and weights are those that were recorded: bit for bit, on such a machine.

`make golden` checks all cells, `make golden ARGS=--record` records them anew (say in the commit why they moved).
Where vector units or versions differ from the recording's, sums have another order: 1e-6 there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bench import Bench, cells
from golden_cells import CELLS, ENGINES, RUNS, TRIALS, run_by_ray, run_engine, run_trials
from recording import Recording

Records = dict[str, dict[str, Any]] | None
BASE = "full, ZeRO 0"


def meets(recording: Recording, records: Records, cell: str, found: dict[str, Any]) -> None:
    if records is not None:
        records[cell] = found
        return
    assert recording.misses(cell, found) == []


@pytest.mark.parametrize("cell", cells(*ENGINES, often=(BASE, "LoRA, ZeRO 0")))
def test_engines(bench: Bench, recording: Recording, records: Records, cell: str) -> None:
    meets(recording, records, cell, run_engine(bench, cell))


@pytest.mark.parametrize("cell", cells(*TRIALS, often=("trials on one shared base",)))
def test_trials(bench: Bench, recording: Recording, records: Records, tmp_path: Path, cell: str) -> None:
    meets(recording, records, cell, run_trials(bench, cell, tmp_path))


@pytest.mark.full
@pytest.mark.ray
@pytest.mark.parametrize("cell", RUNS)
def test_runs(ray_cluster: None, recording: Recording, records: Records, tmp_path: Path, cell: str) -> None:
    meets(recording, records, cell, run_by_ray(cell, tmp_path))


def test_every_cell_is_recorded(recording: Recording, records: Records) -> None:
    assert records is not None or list(recording.cells) == list(CELLS)


@pytest.mark.parametrize(
    "mutant",
    [{"optimizer__learning_rate": 3e-3 * (1 + 1e-7)}, {"mutant": "last_first"}],
    ids=["learning rate * (1 + 1e-7)", "micro-batches summed the other way round"],
)
def test_the_smallest_change_is_seen(bench: Bench, recording: Recording, records: Records, mutant: Any) -> None:
    """In bits, and not by a tolerance: against the same cell on this machine."""
    here = Recording(recording.facts, {BASE: run_engine(bench, BASE)})
    changed = run_engine(bench, BASE, **mutant)
    assert changed["losses"] != here.cells[BASE]["losses"]
    assert changed["weights"] != here.cells[BASE]["weights"]
    if not recording.foreign():
        assert here.misses(BASE, changed)
