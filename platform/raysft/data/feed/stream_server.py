"""Windows for all ranks of a streaming run: a Ray actor that makes them ahead of training."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ray

from raysft.data.feed.stream import Cursor, StreamSource, Window, windows
from raysft.data.on_ray import raised_in_task
from raysft.errors import DataError, RaysftError

_AHEAD = 2
"""Windows made and not yet asked for: with them, Ray Data's back-pressure reaches the readers."""
_STALL_S = 1800.0


def serve_stream(source: StreamSource, cursor: Cursor, name: str) -> Callable[[int, int], Window]:
    """Asks the actor of this name, made by the first rank that asks. It ends with the process that made it."""
    server: Any = ray.remote(WindowServer).options(name=name, get_if_exists=True, num_cpus=0)
    actor = server.remote(source, cursor)

    def window(epoch: int, index: int) -> Window:
        answer: Window = _answer(actor.window.remote(epoch, index))
        return answer if answer.rows is None else replace(answer, rows=_answer(answer.rows[0]))

    return window


class WindowServer:
    """Makes windows in a thread and keeps the two newest: ranks are never further apart."""

    def __init__(self, source: StreamSource, start: Cursor) -> None:
        self._made: queue.Queue[Window | Exception] = queue.Queue(maxsize=_AHEAD)
        self._kept: list[Window] = []
        self._thread = threading.Thread(target=self._produce, args=(source, start), daemon=True)
        self._thread.start()

    def window(self, epoch: int, index: int) -> Window:
        """Window `index` of an epoch, its rows as [reference]. Windows must be asked for in order."""
        while True:
            for window in self._kept:
                if (window.epoch, window.index) == (epoch, index):
                    return window
            made = self._next()
            if isinstance(made, Exception):
                self._made.put(made)  # the other ranks shall know it too
                raise made
            rows: Any = None if made.rows is None else [ray.put(made.rows)]  # once, for all ranks of a node
            self._kept = [*self._kept[-1:], replace(made, rows=rows)]

    def _next(self) -> Window | Exception:
        try:
            return self._made.get(timeout=_STALL_S)
        except queue.Empty:
            return DataError(
                "the stream of training data has stalled",
                got=f"no window of samples for {_STALL_S:.0f} s",
                expected="Ray Data to read and tokenize on the cluster",
                fix="see the dashboard or `ray status` for CPUs; run the same command to resume",
            )

    def _produce(self, source: StreamSource, start: Cursor) -> None:
        try:
            for window in windows(source, start):
                self._made.put(window)
        except Exception as error:  # a thread's boundary: it is raised where the windows are asked for
            self._made.put(error)


def _answer(reference: Any) -> Any:
    """What an actor or the object store answers; our own errors as they are."""
    try:
        return ray.get(reference, timeout=_STALL_S)
    except ray.exceptions.RayTaskError as error:
        cause = raised_in_task(error)
        if isinstance(cause, RaysftError):
            raise cause from None
        raise
