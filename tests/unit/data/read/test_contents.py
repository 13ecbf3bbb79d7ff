"""Hashes of input files: kept where nothing can have changed, and files that change while they are read."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from raysft.data.read import contents as contents_module
from raysft.data.read.contents import check_files_unchanged, check_stamp, content, contents
from raysft.data.read.sources import SourceFile, expand
from raysft.errors import DataError

OLD = (10**18, 10**18)


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that this test has just written count as old ones."""
    monkeypatch.setattr(contents_module, "_SETTLED_S", -60.0)


def files(*paths: Path) -> list[SourceFile]:
    return expand([str(path) for path in paths])


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def put(path: Path, text: str) -> Path:
    path.write_text(text)
    os.utime(path, ns=OLD)
    return path


class Reader:
    """contents() with a cache, which tells which files were read."""

    def __init__(self, cache: Path) -> None:
        self.cache, self.read = cache, []

    def __call__(self, *paths: Path) -> list[str]:
        def spy(function, files):
            self.read.append([Path(file.location).name for file in files])
            return map(function, files)

        found = [one.sha256 for one in contents(files(*paths), str(self.cache), spy)]
        assert found == [digest(path) for path in paths]
        return found


@pytest.mark.usefixtures("settled")
def test_a_hash_is_kept_while_nothing_changes(tmp_path):
    paths = [put(tmp_path / f"{name}.jsonl", f"{name} 1\n") for name in "abc"]
    reader = Reader(tmp_path / "store" / "hashes.json")
    reader(*paths)
    reader(*paths)
    assert reader.read == [["a.jsonl", "b.jsonl", "c.jsonl"], []]


def test_a_file_that_was_just_written_is_not_trusted(tmp_path):
    path = put(tmp_path / "a.jsonl", "a\n")  # its time of writing is old, its time of change is not
    reader = Reader(tmp_path / "hashes.json")
    reader(path)
    reader(path)
    assert reader.read == [["a.jsonl"]] * 2


def overwrite(path: Path) -> None:
    put(path, "two\n")


def rename_over(path: Path) -> None:
    os.replace(put(path.with_name("new"), "two\n"), path)


def copy_with_times(path: Path) -> None:
    shutil.copy2(put(path.with_name("new"), "two\n"), path)


def link_elsewhere(path: Path) -> None:
    put(path.with_name("new"), "two\n")
    path.unlink()
    path.symlink_to("new")


def write_in_place(path: Path) -> None:
    with open(path, "r+b") as stream:
        stream.write(b"two")
    os.utime(path, ns=OLD)


@pytest.mark.parametrize("replace", [overwrite, rename_over, copy_with_times, link_elsewhere, write_in_place])
@pytest.mark.usefixtures("settled")
def test_another_file_of_the_same_size_and_time_is_seen(tmp_path, replace):
    """As `touch -d`, tar and rsync -t leave it."""
    path = put(tmp_path / "a.jsonl", "one\n")
    reader = Reader(tmp_path / "hashes.json")
    before = reader(path)
    replace(path)
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (4, OLD[1])
    assert reader(path) != before
    assert reader.read == [["a.jsonl"]] * 2


@pytest.mark.parametrize("damage", ["{torn", "[]", '{"a": 1}', "flip", "foreign", ""])
@pytest.mark.usefixtures("settled")
def test_a_damaged_cache_is_made_anew(tmp_path, damage):
    path = put(tmp_path / "a.jsonl", "one\n")
    reader = Reader(tmp_path / "hashes.json")
    reader(path)
    stored = reader.cache.read_text()
    if damage == "flip":  # of the hash itself: nothing but a sum can tell
        damage = stored.replace(digest(path)[:4], f"{int(digest(path)[:4], 16) ^ 1:04x}")
    if damage == "foreign":
        damage = json.dumps({"version": 2, "sha256": "0" * 64, "files": {}})
    assert damage != stored
    reader.cache.write_text(damage)
    reader(path)
    assert reader.read == [["a.jsonl"]] * 2
    assert reader.cache.read_text() == stored


@pytest.mark.usefixtures("settled")
def test_a_storage_that_cannot_be_written_costs_the_cache_only(tmp_path, caplog):
    (tmp_path / "store").write_text("a file where a folder should be")
    reader = Reader(tmp_path / "store" / "hashes.json")
    reader(put(tmp_path / "a.jsonl", "one\n"))
    assert "cannot be kept" in caplog.text


def test_the_cache_shows_no_secret_of_an_address(tmp_path):
    entry = contents_module._entry("https://h/a?sig=feed", contents_module.FileContent("00", "1", True))
    assert "feed" not in json.dumps({contents_module._key("https://h/a?sig=feed"): entry})


def test_a_file_that_changes_while_it_is_hashed_is_refused(tmp_path, monkeypatch):
    path = put(tmp_path / "a.jsonl", "one\n")
    real = contents_module.open_bytes

    def open_and_write(location):
        stream = real(location)
        path.write_text("two\n")
        return stream

    monkeypatch.setattr(contents_module, "open_bytes", open_and_write)
    with pytest.raises(DataError, match=r"a\.jsonl changed while it was read(.|\n)*run the same command again"):
        content(files(path)[0])


@pytest.mark.parametrize("is_settled", [True, False])
def test_files_that_changed_since_are_named(tmp_path, is_settled, monkeypatch):
    if is_settled:
        monkeypatch.setattr(contents_module, "_SETTLED_S", -60.0)
    path = put(tmp_path / "a.jsonl", "one\n")
    listed = files(path)
    before = [content(file) for file in listed]
    check_files_unchanged(listed, before)
    path.chmod(0o600)  # another time of change, the same bytes
    check_files_unchanged(listed, before)
    for change in (overwrite, rename_over):
        change(path)
        with pytest.raises(DataError, match=r"a\.jsonl changed"):
            check_files_unchanged(listed, before)
        before = [content(file) for file in listed]
    path.write_text("one\n")
    path.write_text("two\n")  # put back; what was read meanwhile may have been the other
    with pytest.raises(DataError, match=r"a\.jsonl changed"):
        check_files_unchanged(listed, before)
    with pytest.raises(DataError, match=r"a\.jsonl changed"):
        check_stamp(listed[0], before[0])
    path.unlink()
    with pytest.raises(DataError, match=r"a\.jsonl changed"):
        check_files_unchanged(listed, before)
