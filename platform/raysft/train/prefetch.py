"""The next step's batch is made in a thread while this one is trained."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetch(Generic[T]):
    """make(step), one step ahead. Steps are asked for in order; an error is raised where its step is asked for.

    What was made ahead and never asked for leaves no trace: a checkpoint holds the cursor of the last trained step.
    """

    def __init__(self, make: Callable[[int], T], total_steps: int) -> None:
        self._make, self._total_steps = make, total_steps
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
        self._ahead: tuple[int, Future[T]] | None = None

    def __call__(self, step: int) -> T:
        """The batch of 0-based step `step`."""
        made = self._ahead[1] if self._ahead and self._ahead[0] == step else self._thread.submit(self._make, step)
        batch = made.result()
        if step + 1 < self._total_steps:
            self._ahead = (step + 1, self._thread.submit(self._make, step + 1))
        return batch

    def close(self) -> None:
        """Nobody waits for what is being made."""
        self._thread.shutdown(wait=False, cancel_futures=True)
