"""A file far away as a seekable stream: a read that failed is tried again from the byte that was reached."""

from __future__ import annotations

import io
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from raysft.errors import StorageError

Retried = Callable[..., Any]
"""`remote.retried`: (an act, the location for its error) -> what the act answers, after as many tries as it takes."""


class ResumedFile(io.RawIOBase):
    """Position and size; how bytes come is for subclasses to say in `_read`."""

    def __init__(self, location: str, num_bytes: int, retried: Retried) -> None:
        self._location, self._size, self._retried = location, num_bytes, retried
        self._position = 0

    @abstractmethod
    def _read(self, count: int) -> bytes:
        """From one to `count` bytes at the position. Raises OSError where trying again may help."""

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self._size - self._position)
        if wanted <= 0:
            return 0
        data: bytes = self._retried(lambda: self._read(wanted), self._location)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def _nothing(self) -> OSError:
        return OSError(f"no bytes at {self._position:,} of {self._size:,}")

    def _changed(self, now: str, before: str) -> StorageError:
        return StorageError(
            f"{self._location} changed while it was read",
            got=now,
            expected=f"{before}, as at first",
            fix="let the writer finish, then start again",
        )
