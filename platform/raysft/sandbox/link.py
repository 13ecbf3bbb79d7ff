"""Messages between the two processes of a test: lines of JSON over a pair of sockets, none of them without end."""

from __future__ import annotations

import json
import os
from typing import Any


class LinkEndedError(Exception):
    """The other process has ended, or writes what is no message."""


class Link:
    """This process's end."""

    def __init__(self, descriptor: int, most_bytes: int) -> None:
        self._descriptor, self._most = descriptor, most_bytes
        self._rest = b""

    def send(self, message: Any) -> None:
        """Raises LinkEndedError; ValueError, TypeError, RecursionError where it is no JSON."""
        data = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        if len(data) > self._most:
            raise ValueError(f"a value of {len(data):,} bytes; at most {self._most:,} are handed over")
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError as error:
            raise LinkEndedError(str(error)) from None

    def receive(self) -> Any:
        """Raises LinkEndedError."""
        parts = [self._rest]
        size = len(self._rest)
        while b"\n" not in parts[-1]:
            try:
                part = os.read(self._descriptor, 1 << 16)
            except OSError as error:
                raise LinkEndedError(str(error)) from None
            parts.append(part)
            size += len(part)
            if not part or size > self._most:
                raise LinkEndedError("it has ended" if not part else f"a message of over {self._most:,} bytes")
        line, _, self._rest = b"".join(parts).partition(b"\n")
        try:
            return json.loads(line)
        except (ValueError, RecursionError) as error:
            raise LinkEndedError(f"no message: {error}") from None
