"""A job followed to its end: its log is shown, its status decides.

A log stream that ends, or a server that is away for a while, says nothing of the job: both are asked again. What was
shown is not shown twice, because a stream begins at the log's first character each time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from raysft.errors import ClusterError, InterruptedRunError, PlatformError
from raysft.observe.console import printable
from raysft.runtime.job_client import AwayError, Job, JobServer
from raysft.submit.patience import Patience
from raysft.submit.stream import LogStream

logger = logging.getLogger(__name__)

INTERRUPTED = 75
"""Exit code of a run that was stopped and goes on with the same command, as InterruptedRunError has it."""


@dataclass(frozen=True)
class Limits:
    """Seconds."""

    poll_s: float = 1.0
    """Between two questions for the status."""
    away_s: float = 900.0
    """A server that is silent for so long is given up; the job is not."""
    quiet_s: float = 30.0
    """A stream that is silent for so long is compared with the log; doubled each time that there was nothing more."""
    pending_s: float = 10.0
    """A job that has not begun by then is told of, with Ray's words."""


DEFAULT = Limits()


def exit_code(job: Job) -> int:
    """What a command ends with that followed this job: the run's own code where the job has one."""
    if job.status == "SUCCEEDED":
        return 0
    if job.status == "STOPPED":
        return INTERRUPTED
    if job.exit_code is None:  # its process never ran, or was lost with its node
        return PlatformError.exit_code
    return job.exit_code if job.exit_code >= 0 else 128 - job.exit_code


def last_line(job: Job) -> str:
    """How a job ended, and what follows from it."""
    line = f"{job.id} has ended: {job.status}, exit code {exit_code(job)}"
    if job.status == "STOPPED":
        return f"{line}; submitted again it goes on from its last commit"
    if job.status == "FAILED" and job.exit_code is None:
        return f"{line}: {printable(' '.join(job.message.split())[:500])}"
    return line


def follow(server: JobServer, identity: str, write: Callable[[str], None], limits: Limits = DEFAULT) -> Job:
    """Show a job's log until the job has ended; return it as it ended. Raises RaysftError, KeyboardInterrupt.

    write: takes pieces of text.
    """
    shown, silence = _Shown(write), _Silence(limits)
    stream = LogStream(server, identity)
    patience, pending = Patience(f"the job server {server.address}", limits.away_s), _Pending(limits.pending_s)
    try:
        while True:
            if shown.add(stream.read(limits.poll_s)):
                silence.broken()
            try:
                job = server.job(identity)
            except AwayError as error:
                patience.silent(error)
                continue
            patience.answered()
            if job is None:
                raise _lost(server, identity)
            if job.has_ended:
                break
            pending.tell(job)
            if silence.is_long(stream.has_ended):
                is_more = shown.catch_up(_log(server, identity))
                silence.compared(is_more)
                if stream.has_ended or is_more:
                    stream.close()
                    stream = LogStream(server, identity)
                    shown.begin_again()
        shown.add(stream.read(0))
    finally:
        stream.close()
    shown.catch_up(_log(server, identity))
    return job


def _log(server: JobServer, identity: str) -> str:
    """The whole log; empty where it cannot be read now, as when the node that holds it is gone."""
    try:
        return server.log(identity)
    except ClusterError as error:
        logger.debug("the log of %s cannot be read: %s", identity, error)
        return ""


class _Silence:
    """How long a stream may say nothing until it is compared with the log."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.broken()

    def broken(self) -> None:
        """Something new came."""
        self._since = time.monotonic()
        self._alive_s, self._ended_s = self._limits.quiet_s, self._limits.poll_s

    def is_long(self, has_ended: bool) -> bool:
        """Whether it is time; one that has ended is opened anew sooner."""
        return time.monotonic() - self._since >= (self._ended_s if has_ended else self._alive_s)

    def compared(self, is_more: bool) -> None:
        """With more in the log than was shown the pauses begin anew, else they double."""
        alive_s, ended_s = 2 * self._alive_s, min(2 * self._ended_s, self._limits.quiet_s)
        self.broken()
        if not is_more:
            self._alive_s, self._ended_s = alive_s, ended_s


class _Shown:
    """How much of a log was shown, in characters."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._shown = 0
        self._place = 0
        """In the log, where the stream of now goes on."""

    def begin_again(self) -> None:
        """The next piece is the log's beginning."""
        self._place = 0

    def add(self, text: str) -> bool:
        """The stream's next piece. Returns whether any of it was new."""
        is_new = self.catch_up(text, self._place)
        self._place += len(text)
        return is_new

    def catch_up(self, text: str, place: int = 0) -> bool:
        """A part of the log that begins at `place`: show what was not."""
        new = text[max(self._shown - place, 0) :]
        self._shown += len(new)
        if new:
            self._write(printable(new))
        return bool(new)


class _Pending:
    """What a job waits for, said once it waits for long, and again when it is something else."""

    def __init__(self, after_s: float) -> None:
        self._from = time.monotonic() + after_s
        self._told = ""

    def tell(self, job: Job) -> None:
        if job.status == "PENDING" and time.monotonic() > self._from and job.message != self._told:
            self._told = job.message
            logger.info("%s is waiting: %s", job.id, printable(" ".join(job.message.split())[:500]))


def _lost(server: JobServer, identity: str) -> InterruptedRunError:
    return InterruptedRunError(
        f"the cluster at {server.address} no longer knows the job {identity}",
        got="its head was started anew, and what ran there ended with it",
        expected="the job",
        fix="submit the recipe again: the run goes on from its last commit",
    )
