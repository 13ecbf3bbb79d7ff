"""The account of a run directory: recorded and unrecorded incidents, and what each cost."""

from __future__ import annotations

from pathlib import Path

import pytest
from attempts import S, attempt
from fakes import step_info

from raysft import storage
from raysft.lines import LineFile
from raysft.train.commits.layout import CommitId
from raysft.train.history.account import read_account
from raysft.train.history.failures import FailureRecord, write_failure
from raysft.train.history.goodput import CLASSES
from raysft.train.history.incidents import record
from raysft.train.history.records import Records


def driver(run: str, number: int, at_s: float, *lines: tuple[str, float, int | None]) -> None:
    file = LineFile(storage.join(run, "goodput", f"driver-{number:04d}.jsonl"))
    for phase, since_s, first in lines:
        file.append({"phase": phase, "ns": int(since_s * S), "at_ns": int((at_s + since_s) * S), "attempt": first})
    file.flush()


def test_a_killed_worker_that_nobody_recorded(tmp_path: Path) -> None:
    run = str(tmp_path)
    attempt(run, 1, None, range(1, 7))  # 2 + 6 + 0.5 s; dies in step 7
    attempt(run, 2, CommitId(1, 4), range(5, 9), status="finished")  # 2 + 4 + 0.5 s
    seen = [("train", 10.0, 1), ("seen", 13.0, 1), ("seen", 30.0, 2)]
    driver(run, 1, 1000.0, ("start", 0.0, None), *seen, ("export", 40.0, None), ("end", 41.0, None))
    account = read_account(run)
    expected = {"compute": 8 * 0.75, "data_wait": 7 * 0.25, "checkpoint": 1.0, "lost": 2.0, "export": 1.0}
    expected |= {"recovery": 30 - 21.5 + 2 + 0.25, "start": 13.0 + 2 + 3.5}
    assert account.seconds == pytest.approx(dict.fromkeys(CLASSES, 0.0) | expected)
    assert account.wall_s == 41.0
    assert account.goodput == pytest.approx(6 / 41)
    (cost,) = account.costs
    assert (cost.incident.kind, cost.incident.attempt, cost.incident.step) == ("worker", 1, 6)
    assert (cost.steps_lost, cost.lost_s, cost.back_after_s, cost.detected_after_s) == (2, 2.0, 8.5 + 2 + 1, None)


def test_what_was_recorded_is_not_derived_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = str(tmp_path)
    attempt(run, 1, None, range(1, 3))
    attempt(run, 2, None, range(1, 5), status="finished")
    driver(
        run, 1, 1000.0, ("start", 0.0, None), ("train", 0.0, 1), ("seen", 1.0, 1), ("seen", 9.0, 2), ("end", 20.0, 2)
    )
    monkeypatch.setattr("time.time", lambda: 1000.0 + 7)  # the attempt's last sign of life came at 1 + 2 + 2
    record(run, "node", "node 3 died", attempt=1, step=None, detected_after_s=None)
    (cost,) = read_account(run).costs
    assert (cost.incident.kind, cost.incident.what, cost.incident.step) == ("node", "node 3 died", 2)
    assert cost.detected_after_s == pytest.approx(2.0)
    assert (cost.steps_lost, cost.back_after_s) == (2, 4.0 + 2 + 1)


def test_drivers_that_die_or_are_asked_to_stop(tmp_path: Path) -> None:
    run = str(tmp_path)
    attempt(run, 1, None, range(1, 6))  # with its driver: 2 + 5 + 0.5 s
    attempt(run, 2, CommitId(1, 4), range(5, 7), status="interrupted", reason="stop")
    attempt(run, 3, CommitId(2, 6), range(7, 8), status="interrupted", reason="resize")
    attempt(run, 4, CommitId(3, 7), range(8, 9))
    driver(run, 1, 1000.0, ("start", 0.0, None), ("train", 1.0, 1), ("seen", 3.0, 1))
    driver(run, 2, 1100.0, ("start", 0.0, None), ("train", 1.0, 2), ("seen", 3.0, 2), ("end", 9.0, None))
    driver(run, 3, 1200.0, ("start", 0.0, None), ("train", 1.0, 3), ("seen", 3.0, 3), ("seen", 8.0, 4))
    account = read_account(run)
    assert [(cost.incident.kind, cost.incident.attempt) for cost in account.costs] == [
        ("driver", 1),
        ("interrupted", 2),
    ]
    died, asked = account.costs
    assert (died.steps_lost, died.back_after_s) == (1, (1100 - 1010.5) + 3 + 2 + 1)
    assert (asked.steps_lost, asked.incident.step) == (0, 6)
    assert account.seconds["down"] == (1100 - 1010.5) + (1200 - 1109)
    assert account.seconds["recovery"] == 3 + 2 + 0.25  # of the second driver, until its first step's rows were there


def test_a_failure_record_tells_the_end(tmp_path: Path) -> None:
    run = str(tmp_path)
    attempt(run, 1, None, range(1, 3))
    write_failure(run, FailureRecord(1, rank=1, step=2, kind="TrainingError", what="ValueError: oh"))
    driver(run, 1, 1000.0, ("start", 0.0, None), ("train", 1.0, 1), ("seen", 2.0, 1), ("end", 9.0, None))
    (cost,) = read_account(run).costs
    assert (cost.incident.kind, cost.incident.what, cost.back_after_s) == ("code", "ValueError: oh", None)
    assert read_account(run).seconds["recovery"] == 9 - (2 + 2 + 2)


def test_skipped_updates_are_incidents_without_a_restart(tmp_path: Path) -> None:
    run = str(tmp_path)
    attempt(run, 1, None, range(1, 5), status="finished")
    records = Records(run, 1, 0)
    for step in (1, 2, 3):
        records.step(step_info(step, skipped=step == 2, replayed=step in (2, 3)))
    driver(run, 1, 1000.0, ("start", 0.0, None), ("train", 1.0, 1), ("seen", 2.0, 1), ("end", 20.0, None))
    costs = read_account(run).costs
    assert [(cost.incident.kind, cost.incident.step) for cost in costs] == [("skipped", 2), ("transient", 3)]
    assert [cost.steps_lost for cost in costs] == [None, None]


def test_a_run_without_a_record(tmp_path: Path) -> None:
    account = read_account(str(tmp_path))
    assert (account.wall_s, account.goodput, account.costs) == (0.0, 0.0, ())
