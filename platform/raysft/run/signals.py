"""SIGTERM and Ctrl-C while a run trains: the first asks the workers to commit and end, the second ends at once."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from types import FrameType

from raysft.train.watch import stop_requests

logger = logging.getLogger(__name__)

CAUGHT = (signal.SIGTERM, signal.SIGINT)


def stopping(run: str) -> AbstractContextManager[None]:
    """Inside, the first signal asks the workers of a run for a commit."""
    return asking(partial(stop_requests.request, run, stop_requests.Notice.STOP))


@contextmanager
def asking(stop: Callable[[], None]) -> Iterator[None]:
    """Inside, the first signal calls stop(). Only the main thread gets signals; elsewhere nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in CAUGHT}

    def asked(number: int, frame: FrameType | None) -> None:
        for caught, handler in before.items():  # the next one is not for us
            signal.signal(caught, handler)
        logger.warning(
            "%s: the workers commit their state and end; once more ends at once", signal.Signals(number).name
        )
        threading.Thread(target=stop, daemon=True).start()

    for number in CAUGHT:
        signal.signal(number, asked)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
