"""What is gone on with: files of ours alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raysft.appended import held, is_torn
from raysft.errors import StorageError


@pytest.mark.parametrize("cut", range(1, 15))
def test_a_line_of_ours_without_its_end_is_torn(cut: int) -> None:
    assert is_torn(b'{"number": 12}'[:cut], b'{"number": ')


@pytest.mark.parametrize("line", [b'{"number": 12}\n', b"my notes", b'{"prompt": "x"}', b"\n"])
def test_what_somebody_else_wrote_is_not_torn(line: bytes) -> None:
    assert not is_torn(line, b'{"number": ')


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    """/dev/full gives zeros without end, and a pipe waits for somebody."""
    os.mkfifo(tmp_path / "pipe")
    for place in ("/dev/full", "/dev/null", str(tmp_path / "pipe"), str(tmp_path)):
        with pytest.raises(StorageError, match="cannot be gone on with"), held(place):
            pass
