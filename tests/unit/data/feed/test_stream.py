"""The stream without Ray: windows, cursors, and that a restart anywhere repeats and skips nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raysft.data.feed import stream
from raysft.data.feed.step_plan import Order, StepPlan
from raysft.data.feed.stream import Cursor, StreamedRows, Window, windows
from raysft.data.store.packed_rows import row_at
from raysft.errors import DataError

SAMPLES_OF_TASK = [7, 0, 23, 1, 40, 12]
MAX_TOKENS = 32
ORDER = Order(3, 5, windowed=True)


def table_of(task: int) -> pa.Table:
    """Samples of a task: ids task * 1000 + i, lengths 2..20."""
    count = SAMPLES_OF_TASK[task]
    draw = np.random.default_rng(task)
    lengths = draw.integers(2, 21, count)
    ids = [draw.integers(0, 99, n).astype(np.int32) for n in lengths]
    target = [np.ones(n, np.uint8) for n in lengths]
    sample_ids = np.arange(count, dtype=np.int64) + task * 1000
    return pa.table(
        {
            "sample_id": pa.array(sample_ids),
            "weight": pa.array(np.ones(count), pa.float32()),
            "input_ids": pa.array(ids, pa.list_(pa.int32())),
            "target": pa.array(target, pa.list_(pa.uint8())),
            "task": pa.array(np.full(count, task), pa.int64()),
        }
    )


@dataclass(frozen=True)
class FakeSource:
    files: tuple[str, ...] = ("a",)
    stage: Any = None
    max_tokens: int = MAX_TOKENS
    cpus_per_task: int = 1


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    def tables(function: Any, items: Any, *, ordered: bool, resources: Any) -> Any:
        assert ordered
        for item in items:
            table = table_of(item["index"])
            for start in range(0, len(table), 5):  # batches of a task come apart
                yield table.slice(start, 5)

    monkeypatch.setattr(stream, "tables_on_ray", tables)
    monkeypatch.setattr(stream, "plan_reads", lambda files: list(range(len(SAMPLES_OF_TASK))))
    monkeypatch.setattr(stream, "WINDOW", 16)


class FakeServer:
    """Answers as the actor does, in this process."""

    def __init__(self, start: Cursor) -> None:
        self._made = windows(FakeSource(), start)  # type: ignore[arg-type]
        self._last: Window | None = None

    def window(self, epoch: int, index: int) -> Window:
        while self._last is None or (self._last.epoch, self._last.index) != (epoch, index):
            self._last = next(self._made)
        return self._last


def steps(cursor: Cursor, count: int) -> list[tuple[list[int], dict[str, int]]]:
    """(sample ids, cursor after it) of the next steps."""
    rows = StreamedRows(FakeServer(cursor).window, ORDER, cursor)
    found = []
    for step in range(count):
        taken = rows.step(step)
        read = taken.read(range(len(taken.tokens)))
        assert [row.num_tokens for row in read] == taken.tokens.tolist()
        assert [int((row.segment_fields["length"] ** 2).sum()) for row in read] == taken.squares.tolist()
        found.append(([int(i) for row in read for i in row.segment_fields["sample_id"]], dict(taken.cursor)))
    return found


def test_an_epoch_is_all_samples_once() -> None:
    everything = sorted(task * 1000 + i for task, count in enumerate(SAMPLES_OF_TASK) for i in range(count))
    seen = [i for ids, _ in steps(Cursor(), 60) for i in ids]
    count = len(everything)
    first, second = seen[:count], seen[count : 2 * count]
    assert sorted(first) == sorted(second) == everything
    assert first != second, "another order in the next epoch"


def test_a_restart_at_any_step_goes_on_with_the_same_rows() -> None:
    whole = steps(Cursor(), 50)
    for step in range(1, 50):
        cursor = Cursor(**whole[step - 1][1])
        assert steps(cursor, 50 - step) == whole[step:], f"after step {step}"


def test_streamed_steps_are_those_of_the_windowed_plan() -> None:
    made = windows(FakeSource(), Cursor())  # type: ignore[arg-type]
    first_epoch = []
    for window in made:
        if window.rows is None:
            break
        first_epoch.append(window.rows)
    rows = pa.concat_tables(first_epoch)
    squares = rows.column("row.squares").to_numpy()
    plan = StepPlan(ORDER, [table.num_rows for table in first_epoch], squares)
    streamed = steps(Cursor(), plan.steps_per_epoch)
    for step in range(plan.steps_per_epoch):
        stored = [int(i) for row in plan.rows(step) for i in row_at(rows, int(row)).segment_fields["sample_id"]]
        assert streamed[step][0] == stored


def test_an_empty_stream_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "tables_on_ray", lambda *args, **kwargs: iter(()))
    with pytest.raises(DataError, match="no sample is left"):
        next(windows(FakeSource(), Cursor()))  # type: ignore[arg-type]
