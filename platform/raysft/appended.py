"""A file of lines on this machine, written at its end while a command goes on, and gone on with after a kill.

Owns that one command at a time writes it, and that what was appended is on the disk. What a line is, and whether
those that are there are of the same job, its reader says.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from raysft.errors import ConflictError, StorageError


@contextmanager
def held(location: str) -> Iterator[BinaryIO]:
    """The file, made if it is not there, open to be read and appended to, and nobody else's until it is closed.

    Raises StorageError, ConflictError.
    """
    if "://" in location:
        raise StorageError(
            "this file is written line by line",
            got=location,
            expected="a path of this machine",
            fix="copy the file afterwards",
        )
    if Path(location).exists() and not stat.S_ISREG(os.stat(location).st_mode):
        raise StorageError(
            f"{location} cannot be gone on with",
            got="a directory" if Path(location).is_dir() else "a device or a pipe",
            expected="a file, which is read again when the command goes on",
            fix="name a file",
        )
    try:
        Path(location).parent.mkdir(parents=True, exist_ok=True)
        stream: BinaryIO = open(location, "a+b")  # noqa: SIM115
    except OSError as error:
        raise _cannot_write(location, error) from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConflictError(
                f"another command writes {location}",
                got=str(error),
                expected="one at a time",
                fix="wait for it, or name another file",
            ) from error
        yield stream


def is_torn(line: bytes, begins: bytes) -> bool:
    """Is it a line of ours without its end: what a kill leaves? begins: what each of them begins with.

    What somebody else has written without a line break at its end is none.
    """
    return not line.endswith(b"\n") and line[: len(begins)] == begins[: len(line)]


def append(stream: BinaryIO, data: bytes, location: str) -> None:
    """Whole lines, on the disk when it returns. Raises StorageError."""
    try:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    except OSError as error:
        raise _cannot_write(location, error) from error


def _cannot_write(location: str, error: OSError) -> StorageError:
    return StorageError(
        f"cannot write {location}",
        got=str(error),
        expected="a file that can be written",
        fix="name another, or make room",
    )
