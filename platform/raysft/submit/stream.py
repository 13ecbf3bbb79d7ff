"""A job's log as it grows, read by a thread of its own, so that a connection that hangs holds nobody up."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading

from raysft.runtime.job_client import JobServer

logger = logging.getLogger(__name__)


class LogStream:
    """From its making to `close`. Begins at the log's first character."""

    def __init__(self, server: JobServer, identity: str) -> None:
        self._pieces: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._server, self._identity = server, identity
        self._loop = asyncio.new_event_loop()
        self._task: asyncio.Task[None] | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log stream", daemon=True)
        self._thread.start()

    @property
    def has_ended(self) -> bool:
        """Nothing more comes but what `read` has not given yet."""
        return self._ended.is_set() and self._pieces.empty()

    def read(self, wait_s: float) -> str:
        """What has come since the last call; waits for the first piece, at most so long."""
        found = []
        with contextlib.suppress(queue.Empty):
            found.append(self._pieces.get(timeout=wait_s))
            while True:
                found.append(self._pieces.get_nowait())
        return "".join(found)

    def close(self) -> None:
        """End it; returns at once."""
        with contextlib.suppress(RuntimeError):  # its loop has ended by itself
            self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._task = self._loop.create_task(self._pump())
        try:
            self._loop.run_until_complete(self._task)
        except asyncio.CancelledError:
            pass
        except Exception as error:  # thread boundary: whatever a connection raises, the status is asked elsewhere
            logger.debug("the log stream of %s ended: %s: %s", self._identity, type(error).__name__, error)
        finally:
            self._ended.set()
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    async def _pump(self) -> None:
        async for piece in self._server.tail(self._identity):
            self._pieces.put(piece)
