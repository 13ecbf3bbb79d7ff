"""Versions of data: a log that only grows, differences in words, a rollback that lasts until the data changes."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from fakes import make_recipe

from raysft.data.store.manifest import write_manifest
from raysft.data.store.versions import (
    check_compatible,
    chosen_fingerprint,
    differing,
    read_log,
    record_version,
    roll_back,
    store_location,
)
from raysft.errors import DataError, UserError
from raysft.recipe.schema import Recipe


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return make_recipe(storage=str(tmp_path / "storage"))


def make_store(recipe: Recipe, fingerprint: str, *, records: int = 10, **inputs: Any) -> None:
    files = [[0, "jsonl", "auto", {}, f"hash-of-{fingerprint}"]]
    everything = {"tokenizer": "t", "template": "c", "max_tokens": 64, "files": files, **inputs}
    manifest = {"inputs": everything, "counts": {"records_read": records}, "parts": [], "max_tokens": 64}
    write_manifest(store_location(recipe, fingerprint), manifest)
    record_version(recipe, fingerprint)


def test_each_change_is_a_version_with_a_parent(recipe: Recipe) -> None:
    make_store(recipe, "aaa")
    record_version(recipe, "aaa")  # prepared again: nothing new
    make_store(recipe, "bbb", records=12, train_on="last")
    first, second = read_log(recipe)
    assert (first.number, first.parent, first.change) == (1, None, "first version")
    assert (second.number, second.parent, second.fingerprint) == (2, 1, "bbb")
    assert second.change == (
        "file 0 (source 0): 'hash-of-aaa' -> 'hash-of-bbb'; records_read: 10 -> 12; train_on: None -> 'last'"
    )
    assert differing(recipe, "aaa", "aaa") == []


def test_versions_noted_at_once_are_one_line_of_history(recipe: Recipe) -> None:
    """Three prepares of the same data, and of two other data, end at the same moment."""
    for name in ("aaa", "bbb", "ccc"):
        make_store(make_recipe(storage=str(recipe.storage), name="other"), name)
    ends = [
        threading.Thread(target=record_version, args=(recipe, name)) for name in ("aaa", "aaa", "aaa", "bbb", "ccc")
    ]
    for end in ends:
        end.start()
    for end in ends:
        end.join(60)
    versions = read_log(recipe)
    assert {version.fingerprint for version in versions} == {"aaa", "bbb", "ccc"}
    assert [version.parent for version in versions] == [None, *(version.number for version in versions[:-1])]
    assert all(a.fingerprint != b.fingerprint for a, b in pairwise(versions))


def test_a_rollback_counts_until_the_data_changes_again(recipe: Recipe) -> None:
    for name in ("aaa", "bbb", "ccc"):
        make_store(recipe, name)
    roll_back(recipe, 1)
    assert chosen_fingerprint(recipe, "ccc") == "aaa"
    assert chosen_fingerprint(recipe, "bbb") == "aaa"
    assert chosen_fingerprint(recipe, "new") == "new", "data that nobody put aside"
    record_version(recipe, "aaa")  # what a prepare does that found the older store
    assert [version.is_rollback for version in read_log(recipe)] == [False, False, False, True]
    make_store(recipe, "ddd")
    assert chosen_fingerprint(recipe, "ddd") == "ddd"
    roll_back(recipe, 3)
    assert chosen_fingerprint(recipe, "ddd") == "ccc"


def test_what_cannot_be_rolled_back_to_says_why(recipe: Recipe) -> None:
    with pytest.raises(UserError, match="has no data version 1") as caught:
        roll_back(recipe, 1)
    assert "raysft prepare" in str(caught.value.expected)
    make_store(recipe, "aaa")
    make_store(recipe, "bbb", max_tokens=128)
    (Path(store_location(recipe, "aaa")) / "manifest.json").unlink()
    with pytest.raises(UserError, match="the store of version 1 is gone"):
        roll_back(recipe, 1)
    with pytest.raises(UserError, match="does not fit this recipe") as caught:
        check_compatible(recipe, "bbb", {"tokenizer": "t", "template": "c", "max_tokens": 64})
    assert "max_tokens" in str(caught.value.got)
    check_compatible(recipe, "bbb", {"tokenizer": "t", "template": "c", "max_tokens": 128})


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(b'"fingerprint": "') + 16] ^= 1  # valid JSON, another store
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path, Path], object]] = {
    "cut": lambda path, other: path.write_bytes(path.read_bytes()[:-9]),
    "emptied": lambda path, other: path.write_bytes(b""),
    "flipped": lambda path, other: flip(path),
    "deleted": lambda path, other: path.unlink(),
    "another recipe's": lambda path, other: path.write_bytes(other.read_bytes()),
    "no record": lambda path, other: path.write_text("[1]"),
    "another number": lambda path, other: path.write_bytes((path.parent / "version-0001.json").read_bytes()),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["version-0002.json", "version-0004.json", "newest.json"])
def test_one_damaged_record_changes_no_data(recipe: Recipe, name: str, damage: str, caplog: Any) -> None:
    """Version 4 is a rollback to 1. Whichever file is lost, the data is that of version 1, and the log goes on."""
    other = make_recipe(storage=str(recipe.storage), name="other")
    for fingerprint in ("aaa", "bbb", "ccc"):
        make_store(recipe, fingerprint)
        make_store(other, fingerprint)
    roll_back(recipe, 1)
    roll_back(other, 2)
    folder = Path(recipe.storage) / "datasets" / recipe.name
    (folder / "version-0004.json.bak").write_text("{")  # what editors and copies leave
    before = read_log(recipe)
    DAMAGES[damage](folder / name, folder.parent / "other" / name)
    assert chosen_fingerprint(recipe, "ccc") == "aaa"
    kept = read_log(recipe)
    if name == "version-0002.json":
        assert [version.number for version in kept] == [1, 3, 4], "history is lost, which is said"
        assert damage == "deleted" or "version-0002.json cannot be read" in caplog.text
    else:
        assert kept == before, "put back from the copy"
    make_store(recipe, "ddd")
    assert read_log(recipe)[-1].number == 5
    assert chosen_fingerprint(recipe, "ddd") == "ddd"


def test_without_an_intact_newest_record_the_command_stops(recipe: Recipe) -> None:
    for fingerprint in ("aaa", "bbb"):
        make_store(recipe, fingerprint)
    roll_back(recipe, 1)
    folder = Path(recipe.storage) / "datasets" / recipe.name
    for name in ("version-0003.json", "newest.json"):
        (folder / name).write_text("{")
    with pytest.raises(DataError, match=r"newest data version(.|\n)*version-0003\.json(.|\n)*delete it"):
        chosen_fingerprint(recipe, "bbb")
    (folder / "version-0003.json").unlink()
    assert chosen_fingerprint(recipe, "bbb") == "bbb"


def test_records_of_before_sums_are_read(recipe: Recipe) -> None:
    make_store(recipe, "aaa")
    folder = Path(recipe.storage) / "datasets" / recipe.name
    record = json.loads((folder / "version-0001.json").read_text())
    del record["sha256"], record["recipe"]
    (folder / "version-0001.json").write_text(json.dumps(record))
    (folder / "newest.json").unlink()
    assert [version.fingerprint for version in read_log(recipe)] == ["aaa"]
    assert (folder / "newest.json").exists()


def test_a_rollback_to_a_damaged_store_is_refused(recipe: Recipe) -> None:
    for fingerprint in ("aaa", "bbb"):
        make_store(recipe, fingerprint)
    manifest = Path(store_location(recipe, "aaa")) / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"t"', '"u"'))
    with pytest.raises(UserError, match="the store of version 1 is gone or damaged"):
        roll_back(recipe, 1)
    assert differing(recipe, "aaa", "bbb"), "and a comparison says what it can"
