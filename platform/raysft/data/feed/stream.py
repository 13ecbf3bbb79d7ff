"""Stream mode: windows of packed rows made in the order of the source, and the steps that are cut out of them.

The same stages as in prepare.py, without waiting for all of the data. The position in the source is small (a Cursor),
lies in each checkpoint, and is all that a restart needs. Who runs this ahead of training: stream_server.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysft.data.feed.rows import StepRows
from raysft.data.feed.step_plan import Order
from raysft.data.on_ray import Item, TaskResources, tables_on_ray
from raysft.data.prepare.encode import EncodeStage, encode_task
from raysft.data.read.contents import FileContent, check_stamp
from raysft.data.read.remote import local_path
from raysft.data.read.sources import ReadTask, SourceFile, plan_reads
from raysft.data.store.packed_rows import row_at
from raysft.data.store.windows import COLUMNS, WINDOW, pack_window
from raysft.errors import DataError


@dataclass(frozen=True)
class StreamSource:
    """What is streamed."""

    files: tuple[SourceFile, ...]
    contents: tuple[FileContent, ...]
    """What each of `files` held when the run's data was looked at."""
    stage: EncodeStage
    max_tokens: int
    cpus_per_task: int
    """0 where training holds every CPU of the cluster: then tokenizing shares them."""
    fingerprint: str


@dataclass(frozen=True)
class Cursor:
    """The first row that no step has taken. `task` and `sample` say where its window begins in the source."""

    epoch: int = 0
    window: int = 0
    row: int = 0
    task: int = 0
    sample: int = 0
    """Samples of that task that belong to earlier windows."""
    taken: int = 0
    """Rows of the epoch before this window."""


@dataclass(frozen=True)
class Window:
    """Packed rows; None after the last window of an epoch."""

    epoch: int
    index: int
    starts: tuple[int, int]
    """(task, sample of it) in the source where the window begins."""
    ends: tuple[int, int]
    rows: pa.Table | None
    """A table of store.pack_rows; None: the epoch has ended."""


def windows(source: StreamSource, start: Cursor) -> Iterator[Window]:
    """All windows from the start of the cursor's window on, epoch after epoch, for ever."""
    tasks = plan_reads(source.files)
    at = replace(start, row=0)
    while True:
        for table, starts, ends in _cut(_tables(source, tasks, at), at):
            yield Window(at.epoch, at.window, starts, ends, pack_window(table, source.max_tokens))
            at = replace(at, window=at.window + 1, task=ends[0], sample=ends[1])
        if at.window == 0:
            raise DataError(
                "no sample is left of the stream",
                got=f"{len(source.files)} files without a usable record",
                expected="records of a known format that fit the rules, the template and data.max_tokens",
                fix="see `raysft preview`; set data.format, data.columns or data.rules",
            )
        yield Window(at.epoch, at.window, (at.task, at.sample), (at.task, at.sample), None)
        at = Cursor(epoch=at.epoch + 1)


def _tables(source: StreamSource, tasks: Sequence[ReadTask], start: Cursor) -> Iterator[tuple[int, pa.Table]]:
    """(task, its samples) in order; the samples before the cursor are left out."""
    items = [{"index": index} for index in range(start.task, len(tasks))]
    encode = partial(_encode_item, tasks=tasks, source=source)
    skip = {start.task: start.sample}
    for table in tables_on_ray(encode, items, ordered=True, resources=TaskResources(cpus=source.cpus_per_task)):
        for task in pc.unique(table.column("task")).to_pylist():  # a block may hold several batches of one task
            mine = table.filter(pc.equal(table.column("task"), task))
            gone = min(skip.get(task, 0), len(mine))
            skip[task] = skip.get(task, 0) - gone
            yield task, mine.slice(gone).select(COLUMNS)


def _cut(
    tables: Iterator[tuple[int, pa.Table]], start: Cursor
) -> Iterator[tuple[pa.Table, tuple[int, int], tuple[int, int]]]:
    """(samples of a window, where it begins, where it ends): places are (task, sample of it)."""
    waiting: list[pa.Table] = []
    num_waiting = 0
    begins = at = (start.task, start.sample)
    for task, table in tables:
        while len(table):
            piece = table.slice(0, WINDOW - num_waiting)
            table = table.slice(len(piece))
            waiting.append(piece)
            num_waiting += len(piece)
            at = (task, (at[1] if task == at[0] else 0) + len(piece))
            if num_waiting == WINDOW:
                yield pa.concat_tables(waiting).combine_chunks(), begins, at
                waiting, num_waiting, begins = [], 0, at
    if num_waiting:
        yield pa.concat_tables(waiting).combine_chunks(), begins, at


def _encode_item(item: Item, *, tasks: Sequence[ReadTask], source: StreamSource) -> Iterator[pa.Table]:
    """Every batch is of the bytes that the run began with. Raises DataError where somebody writes to the file."""
    task = tasks[item["index"]]
    known, is_local = source.contents[task.file.index], local_path(task.file.location) is not None
    for batch in encode_task(task, source.stage):
        if is_local:  # elsewhere it is a request
            check_stamp(task.file, known)
        samples = batch.samples.select(COLUMNS)
        yield samples.append_column("task", pa.repeat(pa.scalar(item["index"], pa.int64()), len(samples)))
    check_stamp(task.file, known)


class StreamedRows:
    """The rows of each step. `window(epoch, index)` answers; steps are asked for one after the other."""

    def __init__(self, window: Callable[[int, int], Window], order: Order, cursor: Cursor) -> None:
        self._fetch, self._order, self._cursor = window, order, cursor
        self._window: Window | None = None
        self._shuffled = np.zeros(0, np.int64)

    def step(self, step: int) -> StepRows:
        """The next step's rows. The last step of an epoch is short, and never empty."""
        taken: list[tuple[pa.Table, np.ndarray]] = []
        num_taken = 0
        wanted = self._order.rows_per_step
        while num_taken < wanted:
            rows = self._current()
            if rows is None:
                self._cursor, self._window = Cursor(epoch=self._cursor.epoch + 1), None
                if num_taken:
                    break
                continue
            row = self._cursor.row
            mine = self._shuffled[row : row + wanted - num_taken]
            taken.append((rows, mine))
            num_taken += len(mine)
            self._cursor = replace(self._cursor, row=row + len(mine))
            if self._cursor.row == len(self._shuffled):
                self._cursor, self._window = self._after_window(), None
        return _step_rows(taken, self._cursor)

    def _current(self) -> pa.Table | None:
        """The rows of the cursor's window; None: the epoch has no such window."""
        at = self._cursor
        if self._window is None:
            self._window = self._fetch(at.epoch, at.window)
            self._cursor = replace(at, task=self._window.starts[0], sample=self._window.starts[1])
            if self._window.rows is not None:
                squares = self._window.rows.column("row.squares").to_numpy()
                self._shuffled = self._order.shuffled(squares, at.epoch, at.window, at.taken)
        return self._window.rows

    def _after_window(self) -> Cursor:
        at = self._cursor
        assert self._window is not None
        return Cursor(at.epoch, at.window + 1, 0, *self._window.ends, taken=at.taken + len(self._shuffled))


def _step_rows(taken: list[tuple[pa.Table, np.ndarray]], cursor: Cursor) -> StepRows:
    places = [(table, int(row)) for table, rows in taken for row in rows]
    sizes = [
        np.concatenate([table.column(name).to_numpy()[rows] for table, rows in taken])
        for name in ("row.tokens", "row.squares")
    ]
    return StepRows(
        tokens=sizes[0],
        squares=sizes[1],
        read=lambda indices: [row_at(*places[index]) for index in indices],
        cursor={name: int(value) for name, value in vars(cursor).items()},
    )
