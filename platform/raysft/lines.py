"""Files of JSON lines that one process appends to; each line carries its checksum. sealed.py reads them.

Knows nothing of what stands in a line.
"""

from __future__ import annotations

import errno
import json
import os
import threading
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pyarrow import fs as pafs

from raysft import storage
from raysft.errors import StorageError

SUM = "crc32"
"""Last field of a line: the checksum of the line without it."""


def with_sum(text: str) -> str:
    """A JSON object in one line, with its checksum as last field."""
    return f'{text[:-1]}, "{SUM}": {zlib.crc32(text.encode())}}}'


def is_whole(line: bytes) -> bool:
    """Has a line the checksum that stands in it? Lines without one were written before there were any."""
    content, found, number = line.rpartition(_BEFORE_SUM)
    return not found or b"%d}" % zlib.crc32(b"}", zlib.crc32(content)) == number


_BEFORE_SUM = f', "{SUM}": '.encode()


class LineFile:
    """A file of JSON lines that one process appends to.

    Locally each line is there at once, or, when the disk is full or away, with the first later one that can be
    written. Object stores cannot append: there the lines so far are written anew at every flush().
    """

    def __init__(self, location: str) -> None:
        self._location = location
        fs, path = storage.filesystem(location)
        self._lines: list[str] = []  # locally: those that are not in the file yet
        self._is_local, self._lock = isinstance(fs, pafs.LocalFileSystem), threading.Lock()
        if self._is_local:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        self._path = path

    def append(self, value: Mapping[str, Any]) -> None:
        """Add one line, a JSON object. A storage that fails raises nothing here."""
        self._lines.append(with_sum(json.dumps(value)) + "\n")
        if self._is_local:
            with suppress(StorageError):
                self._append_pending()

    def flush(self) -> None:
        """Make what was appended readable by others. Raises StorageError."""
        if not self._is_local:
            storage.write_bytes(self._location, "".join(self._lines).encode())
        elif self._lines:
            self._append_pending()

    def _append_pending(self) -> None:
        try:
            with self._lock, open(self._path, "ab", buffering=0) as stream:
                data, count = "".join(self._lines).encode(), len(self._lines)
                size = stream.tell()
                if stream.write(data) != len(data):  # a disk that fills up takes what there is room for
                    stream.truncate(size)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                del self._lines[:count]
        except OSError as error:
            raise storage.cannot_write(self._location, error) from error
