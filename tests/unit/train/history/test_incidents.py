"""Incidents: kept under names of their own, read as written, never a reason to fail."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from raysft.train.history.incidents import read_incidents, record


def test_an_incident_is_read_as_it_was_recorded(tmp_path: Path) -> None:
    run = str(tmp_path)
    record(run, "worker", "rank 1 died", attempt=2, step=17, detected_after_s=1.5, facts={"workers": 4})
    record(run, "torn", "flipped", attempt=3, step=None, detected_after_s=None)
    first, second = read_incidents(run)
    assert (first.kind, first.what, first.attempt, first.step) == ("worker", "rank 1 died", 2, 17)
    assert (first.detected_after_s, first.facts) == (1.5, {"workers": 4})
    assert first.at is not None
    assert second.at is not None
    assert first.at <= second.at
    assert (second.kind, second.step, second.detected_after_s, second.facts) == ("torn", None, None, {})
    raw = json.loads((tmp_path / "incidents" / "incident-0001.json").read_text())
    assert (raw["kind"], raw["workers"]) == ("worker", 4)


def test_writers_at_the_same_moment_lose_nothing(tmp_path: Path) -> None:
    def write(attempt: int) -> None:
        record(str(tmp_path), "worker", "died", attempt=attempt, step=1, detected_after_s=None)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(incident.attempt for incident in read_incidents(str(tmp_path))) == list(range(8))


def test_no_incident_and_no_storage(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read_incidents(str(tmp_path)) == []
    (tmp_path / "run").write_text("a file where a directory should be")
    record(str(tmp_path / "run"), "worker", "it died", attempt=1, step=1, detected_after_s=None)
    assert "it died" in caplog.text
