"""Files that are written: never over what is read, whole, whatever stands in them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from raysft.errors import ConflictError, StorageError
from raysft.outputs import check_apart, check_page, write_text


def test_what_is_read_is_not_written_however_it_is_spelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a").write_text("mine")
    os.symlink("a", "link")
    for other in ("a", "./a", str(tmp_path / "a"), "link", f"../{tmp_path.name}/a"):
        with pytest.raises(ConflictError, match="--out and --in are one file"):
            check_apart({"--out": other}, {"--in": "a", "--gold": None})
    with pytest.raises(ConflictError, match="--two and --one"):
        check_apart({"--one": "new", "--two": "./new"}, {})
    check_apart({"--out": "b", "--csv": None}, {"--in": "a", "--gold": None})


def test_a_file_is_written_whole_with_what_utf_8_cannot_hold(tmp_path: Path) -> None:
    write_text(str(tmp_path / "a"), json.dumps({"x": "\ud800 天"}, ensure_ascii=False))
    assert json.loads((tmp_path / "a").read_bytes()) == {"x": "\ud800 天"}
    assert os.listdir(tmp_path) == ["a"]
    with pytest.raises(StorageError, match="cannot write"):
        write_text(str(tmp_path / "a" / "b"), "")


def test_a_page_is_written_over_an_earlier_page_alone(tmp_path: Path) -> None:
    page, numbers = tmp_path / "report.html", tmp_path / "report.json"
    check_page(str(page), str(numbers))
    numbers.write_text('{"text": "mine"}')
    with pytest.raises(ConflictError, match="over something else") as found:
        check_page(str(page), str(numbers))
    assert str(numbers) in found.value.got
    page.write_text("<!DOCTYPE html>\n<title>earlier</title>")
    check_page(str(page), str(numbers))
    check_page(str(page))
    for other in (b"", b"{}", b"<html>", b"\x00" * 40):
        page.write_bytes(other)
        with pytest.raises(ConflictError, match="over something else"):
            check_page(str(page))
    with pytest.raises(ConflictError, match="over something else"):
        check_page(str(tmp_path))
