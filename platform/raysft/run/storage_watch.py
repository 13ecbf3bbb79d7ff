"""A word to a person while the storage of a run takes nothing: training then waits at its next save, and looks hung.

The driver tries for itself, and compares a local disk's free space with the newest checkpoint.
"""

from __future__ import annotations

import logging
import math
import os
from contextlib import suppress

from pyarrow import fs as pafs

from raysft import storage
from raysft.errors import RaysftError, StorageError
from raysft.train.commits.layout import Checkpoint, commit_directory, read_commits, read_saves
from raysft.train.commits.writer import PATIENCE_S

logger = logging.getLogger(__name__)

LOOK_S = 3.0
"""Between two looks."""

AGAIN_S = 30.0
"""Between two words about a storage that is still away."""


class StorageWatch:
    """look() as often as you like. It writes into <run>/driver, which is gone when the run has ended."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._next_s, self._said_s = -math.inf, -math.inf
        self._since_s: float | None = None

    def look(self, now_s: float) -> None:
        """Say what has changed. now_s: of a monotonic clock."""
        if now_s < self._next_s:
            return
        self._next_s = now_s + LOOK_S
        problem = _problem(self._run)
        if problem is None:
            if self._since_s is not None:
                logger.warning("storage has room again after %.0f s; training goes on", now_s - self._since_s)
            self._since_s, self._said_s = None, -math.inf
            return
        self._since_s = now_s if self._since_s is None else self._since_s
        if now_s - self._said_s < AGAIN_S:
            return
        self._said_s = now_s
        logger.warning(
            "storage takes no checkpoint (since %.0f s): %s. Training goes on to its next save and waits there for "
            "up to %.0f min; make room, or bring the storage back, and it goes on by itself. The last commit stays.",
            now_s - self._since_s,
            problem,
            PATIENCE_S / 60,
        )


def _problem(run: str) -> str | None:
    """Why the next save cannot be written, as far as the driver can tell; None: nothing is known to be wrong."""
    try:
        storage.check_writable(storage.join(run, "driver"))
    except StorageError as error:
        return f"nothing can be written to {run} ({error.got})"
    free, needed = free_bytes(run), _bytes_to_come(run)
    if free is None or free >= needed:
        return None
    return f"{run} has {free / 2**20:,.1f} MiB free, the next checkpoint takes {needed / 2**20:,.1f} MiB more"


def free_bytes(location: str) -> int | None:
    """Room on a local disk for this user; None on an object store, or where nobody can tell."""
    filesystem, path = storage.filesystem(location)
    if not isinstance(filesystem, pafs.LocalFileSystem):
        return None
    try:
        disk = os.statvfs(path)
    except OSError:
        return None
    return disk.f_bavail * disk.f_frsize


def check_disk(run: str, needed: int) -> None:
    """Refuse a run whose first checkpoint, of so many bytes, a local disk cannot take. Raises StorageError."""
    free = free_bytes(run)
    if free is None or free >= needed or read_commits(run):
        return
    raise StorageError(
        "a checkpoint of this run does not fit on the disk",
        got=f"{free / 2**30:,.1f} GiB free at {run}",
        expected=f"{needed / 2**30:,.1f} GiB: fp32 weights and moments of what is trained",
        fix="set `storage` to a larger disk or an object store, make room, or train adapters (method.kind: lora)",
    )


def _bytes_to_come(run: str) -> int:
    """Size of the newest checkpoint, as the next one's, less what is there of a save under way; 0: not known."""
    with suppress(OSError, ValueError, RaysftError):
        commits = read_commits(run)
        if commits:
            newest = max(commits, key=lambda commit: (commit.attempt, commit.step))
            written = sum(_bytes_in(commit_directory(run, save)) for save in set(read_saves(run)) - set(commits))
            return sum(int(entry["bytes"]) for entry in Checkpoint.open(run, newest).files) - written
    return 0


def _bytes_in(directory: str) -> int:
    filesystem, path = storage.filesystem(directory)
    return sum(info.size or 0 for info in filesystem.get_file_info(pafs.FileSelector(path, allow_not_found=True)))
