"""How a run stands, by what lies there: finished, driven, asked to stop, broken."""

from __future__ import annotations

import platform
import time
from pathlib import Path

import pytest
from run_dirs import make_run

from raysft.lease import is_held, lease
from raysft.run.run_state import state_of
from raysft.train.history import incidents


def test_a_run_is_finished_or_driven_or_was_ended(tmp_path: Path) -> None:
    run = make_run(tmp_path, "one", 1)
    assert state_of(str(run)).status == "finished"
    (run / "result.json").unlink()
    assert state_of(str(run)).status == "failed"
    assert "a worker was killed" in state_of(str(run)).what
    with lease(str(run / "driver")):
        assert state_of(str(run)).status == "running"
    incidents.record(str(run), "interrupted", "asked to stop", attempt=2, step=8, detected_after_s=None)
    assert state_of(str(run)).status == "stopped"
    assert state_of(str(tmp_path / "nothing")).status == "failed"


def test_a_holder_elsewhere_is_known_by_its_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = str(tmp_path)
    assert not is_held(place)
    with lease(place):
        assert is_held(place)
        monkeypatch.setattr(platform, "node", lambda: "elsewhere")
        assert is_held(place), "its record is new"
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + 3600)
        assert not is_held(place)
