"""Storage: atomic writes, one winner of an exclusive creation, the same words for paths and URIs."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raysft import storage
from raysft.errors import StorageError


def test_what_was_written_is_read(root: str) -> None:
    place = storage.join(root, "a", "b.bin")
    assert not storage.exists(place)
    storage.write_bytes(place, b"one")
    storage.write_bytes(place, b"second")
    assert storage.read_bytes(place) == b"second"
    assert storage.exists(place)
    assert storage.exists(storage.join(root, "a"))
    assert storage.list_names(storage.join(root, "a")) == ["b.bin"]
    assert storage.list_names(storage.join(root, "nowhere")) == []


def test_json_and_what_is_missing(root: str) -> None:
    storage.write_json(storage.join(root, "x.json"), {"b": [1, None], "a": "é"})
    assert storage.read_json(storage.join(root, "x.json")) == {"a": "é", "b": [1, None]}
    for read in (storage.read_bytes, storage.read_json):
        with pytest.raises(FileNotFoundError):
            read(storage.join(root, "nowhere"))


def test_removing_a_file_a_tree_and_nothing(root: str) -> None:
    storage.write_bytes(storage.join(root, "t/a/one"), b"1")
    storage.write_bytes(storage.join(root, "t/two"), b"2")
    storage.remove_tree(storage.join(root, "t/two"))
    assert storage.list_names(storage.join(root, "t")) == ["a"]
    storage.remove_tree(storage.join(root, "t"))
    assert not storage.exists(storage.join(root, "t/a/one"))
    storage.remove_tree(storage.join(root, "t"))


def test_only_the_first_exclusive_creation_succeeds(root: str) -> None:
    place = storage.join(root, "deep", "commit.json")
    assert storage.create_exclusive(place, {"winner": 1})
    assert not storage.create_exclusive(place, {"winner": 2})
    assert storage.read_json(place) == {"winner": 1}
    assert storage.list_names(storage.join(root, "deep")) == ["commit.json"]


def _race(place: str, number: int, start: Any, won: Any) -> None:
    start.wait()
    if storage.create_exclusive(place, {"winner": number, "filling": "x" * 10_000}):
        won.put(number)


def test_of_eight_processes_that_race_exactly_one_wins(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for round_number in range(5):
        place = str(tmp_path / f"round-{round_number}" / "commit.json")
        start, won = context.Barrier(8), context.SimpleQueue()
        racers = [context.Process(target=_race, args=(place, i, start, won)) for i in range(8)]
        for racer in racers:
            racer.start()
        for racer in racers:
            racer.join(30)
        assert [racer.exitcode for racer in racers] == [0] * 8
        winner = won.get()
        assert won.empty()
        assert storage.read_json(place)["winner"] == winner
        assert storage.list_names(str(Path(place).parent)) == ["commit.json"]


def test_a_reader_never_sees_a_torn_file(tmp_path: Path) -> None:
    place, versions = str(tmp_path / "state.json"), [{"n": n, "filling": str(n) * 50_000} for n in range(10)]
    storage.write_json(place, versions[0])
    done = threading.Event()

    def write() -> None:
        for turn in range(60):
            storage.write_json(place, versions[turn % 10])
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while not done.is_set():
        value = storage.read_json(place)  # would raise on half a file
        assert value == versions[value["n"]]
        seen.add(value["n"])
    writer.join()
    assert len(seen) > 1


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "state.json"
    storage.write_json(str(place), {"n": 1})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="cannot write") as caught:
        storage.write_json(str(place), {"n": 2})
    assert "No space left" in str(caught.value)
    assert json.loads(place.read_text()) == {"n": 1}


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for location in (str(tmp_path / "file" / "below"), "/proc/raysft"):
        with pytest.raises(StorageError, match="cannot write") as caught:
            storage.check_writable(location)
        assert location in str(caught.value)
        assert "storage" in caught.value.fix
        with pytest.raises(StorageError):
            storage.create_exclusive(storage.join(location, "x.json"), {})


def test_a_check_leaves_nothing_behind(root: str) -> None:
    storage.check_writable(storage.join(root, "new"))
    assert storage.list_names(storage.join(root, "new")) == []


def at_once(work: Callable[[], None], callers: int = 8) -> list[BaseException]:
    """What was raised when several threads do the same."""
    raised: list[BaseException] = []
    together = threading.Barrier(callers)

    def call() -> None:
        together.wait(30)
        try:
            work()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=call) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return raised


def test_many_check_one_place(root: str) -> None:
    def check() -> None:
        for _ in range(25):
            storage.check_writable(root)

    assert at_once(check) == []
    assert storage.list_names(root) == []


def test_many_remove_one_tree(root: str) -> None:
    for _ in range(5):
        for number in range(40):
            storage.write_bytes(storage.join(root, "tree", str(number % 4), str(number)), b"x")
        assert at_once(lambda: storage.remove_tree(storage.join(root, "tree"))) == []
        assert not storage.exists(storage.join(root, "tree"))


def test_a_scheme_that_nobody_knows() -> None:
    with pytest.raises(StorageError, match="cannot open") as caught:
        storage.read_bytes("nosuch://bucket/x")
    assert "nosuch" in str(caught.value)


def test_paths_become_absolute_and_uris_stay(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("runs/a") == str(tmp_path / "runs/a")
    assert storage.absolute("s3://bucket/runs") == "s3://bucket/runs"
    assert storage.absolute("~/runs") == str(Path.home() / "runs")
    assert storage.join("s3://bucket/", "a", "b") == "s3://bucket/a/b"
