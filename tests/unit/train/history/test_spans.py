"""Where the time of workers and drivers went, as they write it down."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from attempts import S, attempt
from fakes import FakeGroup

from raysft.train.commits.checkpoint import begin_attempt
from raysft.train.history import spans
from raysft.train.history.account import read_account


def test_a_driver_records_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans, "LOOK_S", 0.005)
    run = str(tmp_path)
    with spans.driving(run, before_ns=S) as recorder:
        recorder.phase("train", 1)
        attempt(run, 1, None, range(1, 3), status="finished")
        while not any(
            "seen" in line for line in (tmp_path / "goodput" / "driver-0001.jsonl").read_text().splitlines()
        ):
            pass
    with spans.driving(run) as recorder:
        recorder.phase("export")
    lines = [json.loads(line) for line in (tmp_path / "goodput" / "driver-0001.jsonl").read_text().splitlines()]
    assert [(line["phase"], line["attempt"]) for line in lines] == [
        *(("start", None), ("train", 1), ("seen", 1), ("end", None))
    ]
    (first, second), _ = spans.read_spans(run)
    assert (first.first_attempt, second.first_attempt) == (1, None)
    assert first.last_ns >= S
    assert read_account(run).seconds["start"] > 1.0


def test_an_update_that_waited_for_the_copy_of_a_save_was_no_training(tmp_path: Path) -> None:
    now = [0]
    begin_attempt(str(tmp_path), FakeGroup())
    written = spans.WorkerSpans(str(tmp_path), 1, is_writer=True, clock=lambda: now[0])
    now[0] = 10 * S
    written.until_now("compute", 5, 1.0, held_s=2.0)
    written.close()
    _, (attempt,) = spans.read_spans(str(tmp_path))
    found = [(span.kind, span.step, span.ns, span.wait_ns) for span in attempt.spans]
    assert found == [("checkpoint", 4, 2 * S, 0), ("compute", 5, 8 * S, S)]
