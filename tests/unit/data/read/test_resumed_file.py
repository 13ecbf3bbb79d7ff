"""A file far away read as a seekable stream: whole, however the reads break off."""

from __future__ import annotations

import io
import random
import zipfile
from collections.abc import Callable
from typing import Any

import pytest

from raysft.data.read.resumed_file import ResumedFile

CONTENT = bytes(random.Random(0).randrange(256) for _ in range(5000))


class Far(ResumedFile):
    """Gives a few bytes at a time; `failures`: reads that break off, by their number."""

    def __init__(self, content: bytes, failures: frozenset[int] = frozenset()) -> None:
        self.content, self.failures, self.reads = content, failures, 0
        super().__init__("far://a", len(content), self._again)

    def _again(self, act: Callable[[], Any], location: str) -> Any:
        assert location == "far://a"
        while True:
            try:
                return act()
            except OSError:
                continue

    def _read(self, count: int) -> bytes:
        self.reads += 1
        if self.reads in self.failures:
            raise self._nothing()
        assert count > 0
        return self.content[self._position : self._position + min(count, 700)]


def test_it_is_whole_whatever_breaks_off() -> None:
    far = Far(CONTENT, frozenset({1, 2, 5, 9}))
    assert io.BufferedReader(far).read() == CONTENT
    assert far.tell() == len(CONTENT)
    assert far.readinto(bytearray(9)) == 0, "the end"


def test_a_place_may_be_sought_from_either_end() -> None:
    far = Far(CONTENT)
    for offset, whence, place in ((10, io.SEEK_SET, 10), (5, io.SEEK_CUR, 15), (-7, io.SEEK_END, len(CONTENT) - 7)):
        assert far.seek(offset, whence) == far.tell() == place
    assert far.read(100) == CONTENT[-7:]
    assert far.seek(0) == 0
    assert far.read(3) == CONTENT[:3]


def test_readers_that_seek_read_it() -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a", CONTENT)
    with zipfile.ZipFile(io.BufferedReader(Far(packed.getvalue(), frozenset({3})))) as archive:
        assert archive.read("a") == CONTENT


def test_what_is_told_of_a_break_and_of_a_change() -> None:
    far = Far(CONTENT)
    far.seek(1234)
    assert "1,234 of 5,000" in str(far._nothing())
    changed = far._changed("4 bytes", "5,000 bytes")
    assert changed.what == "far://a changed while it was read"
    assert (changed.got, changed.expected) == ("4 bytes", "5,000 bytes, as at first")
    with pytest.raises(ZeroDivisionError):  # only what the place says is tried again
        Far(CONTENT)._again(lambda: 1 // 0, "far://a")
