"""Seconds by class, goodput, failures and the newest save's stall, of a run whose numbers are known by hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from attempts import S, attempt

from raysft import storage
from raysft.lines import LineFile
from raysft.run.time_gauges import EVERY_S, TimeGauges
from raysft.runtime.gauges import GAUGES
from raysft.train.commits.layout import CommitId
from raysft.train.history.goodput import CLASSES
from raysft.train.history.incidents import record


class Told(dict[str, float]):
    """Numbers by name, and seconds by class."""

    def set(self, values: Mapping[str, float]) -> None:
        assert set(values) <= set(GAUGES)
        self.update(values)

    def set_times(self, seconds: Mapping[str, float]) -> None:
        self.update({f"time/{name}": value for name, value in seconds.items()})


def test_of_a_run_with_one_failure(tmp_path: Path) -> None:
    """Attempt 1 dies in step 7 after a commit of step 4; attempt 2 does 5 to 8. A step: 0.75 s, 0.25 s of waiting."""
    run = str(tmp_path)
    attempt(run, 1, None, range(1, 7))
    attempt(run, 2, CommitId(1, 4), range(5, 9), status="finished")
    file = LineFile(storage.join(run, "goodput", "driver-0001.jsonl"))
    phases = [("start", 0, None), ("train", 10, 1), ("seen", 13, 1), ("seen", 30, 2), ("export", 40, None)]
    for phase, since_s, first in [*phases, ("end", 41, None)]:
        file.append({"phase": phase, "ns": since_s * S, "at_ns": (1000 + since_s) * S, "attempt": first})
    file.flush()
    told = Told()
    gauges = TimeGauges(run, told)
    gauges.look(0.0)
    assert {name for name in told if name.startswith("time/")} == {f"time/{name}" for name in CLASSES}
    assert told["time/compute"] == pytest.approx(6.0)
    assert told["time/lost"] == pytest.approx(2.0)
    assert sum(value for name, value in told.items() if name.startswith("time/")) == pytest.approx(41.0)
    assert told["goodput"] == pytest.approx(6 / 41)
    assert told["failures"] == 1
    assert told["checkpoint_stall_seconds"] == pytest.approx(0.5)
    record(run, "resize", "room for more", attempt=2, step=8, detected_after_s=None)
    record(run, "straggler", "rank 1 is slow", attempt=2, step=8, detected_after_s=None)
    record(run, "hung", "no progress", attempt=2, step=8, detected_after_s=None)
    gauges.look(EVERY_S - 1)
    assert told["failures"] == 1, "not looked for so soon"
    gauges.look(EVERY_S + 60)
    assert told["failures"] == 2, "what was planned and what ended nothing is none"


def test_of_a_run_that_has_written_nothing(tmp_path: Path) -> None:
    told = Told()
    TimeGauges(str(tmp_path), told).look(0.0)
    assert (told["goodput"], told["failures"]) == (0.0, 0)
    assert "checkpoint_stall_seconds" not in told
