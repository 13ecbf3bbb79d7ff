"""What a person sees of a run from its records: each line once, whatever attempts come and whatever was there."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from commits import commit
from fakes import step_info

from raysft import storage
from raysft.objectives.reduce import Reduced
from raysft.run.progress import SILENT_S, PrepareProgress, TrainingProgress, parts_text
from raysft.runtime.gauges import GAUGES
from raysft.train.commits.layout import CommitId, attempt_path
from raysft.train.commits.lineage import read_attempts
from raysft.train.history.records import Records, StartFacts
from raysft.train.state import TrainState


def begin(run: Path, number: int, parent: CommitId | None = None) -> Records:
    fields = {"attempt": parent.attempt, "step": parent.step} if parent else None
    storage.write_json(attempt_path(str(run), number), {"number": number, "parent": fields})
    records = Records(str(run), number, 0)
    records.start(StartFacts(parent.step if parent else 0, 2, 1.25, 1e12, "guessed"))
    return records


def take(records: Records, *steps: int) -> None:
    for step in steps:
        state = TrainState(step=step, tokens=100 * step)
        records.step(step_info(step, state=state, loss=1 / step, tokens=100, step_s=0.5))
    records.flush()


@pytest.fixture
def said(caplog: Any) -> Any:
    caplog.set_level(logging.INFO, logger="raysft")
    return lambda: [line for line in caplog.messages if "step" in line or "probed" in line or "attempt" in line]


def test_a_tenth_of_the_run_is_a_line_and_evaluations_are_all_told(tmp_path: Path, said: Any) -> None:
    with TrainingProgress(str(tmp_path), 40) as progress:
        records = begin(tmp_path, 1)
        take(records, *range(1, 13))
        records.evaluation(12, {"held_out": Reduced(0.5, {"nll": 0.5}, {}, {"nll": 4.0}, 4.0)})
        records.flush()
        progress._look()
        progress._look()
    lines = said()
    assert [line.split(":")[0] for line in lines] == [
        *("probed 2 rows of the greatest length in a forward pass", "step 1/40", "step 4/40", "step 8/40"),
        *("step 12/40", "step 12"),
    ]
    assert "loss 0.2500  200 tokens/s" in lines[2]
    assert lines[-1] == "step 12: held-out loss 0.5000, perplexity 1.65"


class Told(dict[str, float]):
    """Numbers by name."""

    def set(self, values: Mapping[str, float]) -> None:
        assert set(values) <= set(GAUGES)
        self.update(values)

    def set_times(self, seconds: Mapping[str, float]) -> None:
        raise AssertionError("asked for by time_gauges.py alone")


def test_a_monitoring_is_told_the_newest_numbers_and_how_old_the_checkpoint_is(tmp_path: Path) -> None:
    told = Told()
    progress = TrainingProgress(str(tmp_path), 40, gauges=told)
    take(records := begin(tmp_path, 1), 1, 2)
    records.evaluation(2, {"held_out": Reduced(0.5, {"nll": 0.5}, {}, {"nll": 4.0}, 4.0)})
    records.flush()
    progress._look()
    expected = {
        "step": 2,
        "total_steps": 40,
        "attempt": 1,
        "loss": 0.5,
        "held_out_loss": 0.5,
        "tokens_per_second": 200.0,
    }
    assert told.items() >= expected.items()
    began = time.monotonic()
    progress._measure_commits(began + 100)
    assert told["commit_age_seconds"] == pytest.approx(100, abs=5)
    commit(str(tmp_path), next(iter(read_attempts(str(tmp_path)))), 2)
    progress._measure_commits(began + 105)
    assert told["commit_age_seconds"] == pytest.approx(105, abs=5), "not looked for so soon"
    progress._measure_commits(began + 200)
    assert told["commit_age_seconds"] == 0
    progress._measure_commits(began + 230)
    assert told["commit_age_seconds"] == 30
    others = {"goodput", "failures", "checkpoint_stall_seconds"}  # of time_gauges.py
    assert set(told) == set(GAUGES) - others - {"reserved_bytes", "device_bytes"}, "the last two are of GPUs"


def test_what_an_earlier_command_said_is_not_said_again(tmp_path: Path, said: Any) -> None:
    take(begin(tmp_path, 1), 1, 2, 3)
    with TrainingProgress(str(tmp_path), 10) as progress:
        progress._look()
        assert said() == []
        take(begin(tmp_path, 2, CommitId(1, 2)), 3, 4)
        progress._look()
    assert said()[0] == "attempt 2 starts from step 2"
    assert [line.split(":")[0] for line in said()[2:]] == ["step 3/10", "step 4/10"]


def test_storage_that_is_away_is_asked_again(tmp_path: Path, said: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    records = begin(tmp_path, 1)
    with TrainingProgress(str(tmp_path), 10) as progress:
        take(records, 1)
        with monkeypatch.context() as patch:
            patch.setattr("raysft.run.progress.read_attempts", lambda run: (_ for _ in ()).throw(OSError("away")))
            progress._look()
        progress._look()
    assert [line.split(":")[0] for line in said()].count("step 1/10") == 1


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ({}, ""),
        ({"terms": {"nll": 1.0}, "metrics": {}}, ""),
        ({"terms": {"nll": 1.0, "kl": 0.25}, "metrics": {}}, ", nll 1.0000, kl 0.2500"),
        ({"terms": {"dpo": 0.5}, "metrics": {"accuracy": 0.75}}, ", accuracy 0.7500"),
    ],
)
def test_terms_are_shown_where_there_are_several(line: dict[str, Any], text: str) -> None:
    assert parts_text(line) == text


def test_a_bar_for_each_kind_of_work() -> None:
    with PrepareProgress() as progress:
        for done in (0, 1, 2):
            progress("shards", done, 2)
        progress("columns", 1, 4)
        tasks = {task.description: (task.completed, task.total) for task in progress._bar.tasks}
    assert tasks == {"preparing shards": (2, 2), "preparing columns": (1, 4)}


def step_line(step: int, at: float, **fields: Any) -> dict[str, Any]:
    line = {"kind": "step", "step": step, "at": 1767323045.0 + at, "loss": 1.0, "tokens_per_s": 50.0, "mfu": None}
    return line | {"step_s": 2.0, "total_tokens": 1000 * step} | fields


def shown(total: int, every: int | None, lines: list[dict[str, Any]], caplog: Any) -> list[str]:
    caplog.clear()
    caplog.set_level(logging.INFO, logger="raysft")
    progress = TrainingProgress("/nowhere", total, every)
    for line in lines:
        progress._show(line)
    return [message for message in caplog.messages if message.startswith("step")]


def test_a_line_tells_totals_the_rest_and_the_time(caplog: Any) -> None:
    lines = [step_line(step, 3.0 * step) for step in range(1, 21)]
    told = shown(1000, 10, lines, caplog)
    assert told == [
        "step 1/1000: loss 1.0000  50 tokens/s  1,000 tokens  33 min 18 s left  2026-01-02 03:04:08 UTC",
        "step 10/1000: loss 1.0000  50 tokens/s  10,000 tokens  49 min 30 s left  2026-01-02 03:04:35 UTC",
        "step 20/1000: loss 1.0000  50 tokens/s  20,000 tokens  49 min 00 s left  2026-01-02 03:05:05 UTC",
    ]


@pytest.mark.parametrize(
    ("every", "steps"),
    [(7, [1, 7, 14, 21, 28, 35, 40]), (100, [1, 40]), (1, list(range(1, 41))), (None, [1, *range(4, 41, 4)])],
)
def test_which_steps_have_a_line(caplog: Any, every: int | None, steps: list[int]) -> None:
    told = shown(40, every, [step_line(step, step) for step in range(1, 41)], caplog)
    assert [int(line.split("/")[0].removeprefix("step ")) for line in told] == steps


def test_a_slow_run_is_not_silent_for_long(caplog: Any) -> None:
    """Steps of four minutes: a tenth of the run would be a line every seven hours."""
    told = shown(1000, None, [step_line(step, 240.0 * step) for step in range(1, 10)], caplog)
    assert [line.split("/")[0] for line in told] == ["step 1", "step 4", "step 7"]


def test_after_an_evaluation_the_page_is_made_anew_but_not_all_the_time(tmp_path: Path) -> None:
    calls: list[str] = []
    progress = TrainingProgress(str(tmp_path), 40, measured=lambda: calls.append("made"))
    records = begin(tmp_path, 1)
    take(records, 1, 2)
    progress._look()
    now = time.monotonic()
    progress._pass_on(now)
    assert calls == []
    records.evaluation(2, {"held_out": Reduced(0.5, {"nll": 0.5}, {}, {"nll": 4.0}, 4.0)})
    records.flush()
    progress._look()
    progress._pass_on(now)
    progress._pass_on(now + 1)
    assert calls == ["made"]
    progress._pass_on(now + SILENT_S + 60)
    assert calls == ["made"] * 2, "a run that evaluates seldom"
