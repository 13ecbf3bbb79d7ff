"""What is a commit: of this layout, with its record whole, in its place; no stray file."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

import pytest
from commits import commit
from fakes import FakeGroup

from raysft import sealed, storage
from raysft.errors import CheckpointError
from raysft.train.commits.checkpoint import begin_attempt, find_latest
from raysft.train.commits.layout import CommitId, commit_directory


def test_a_layout_of_another_version_is_refused_not_guessed(tmp_path: Path) -> None:
    run = str(tmp_path)
    commit(run, begin_attempt(run, FakeGroup())[0], 5)
    place = storage.join(commit_directory(run, CommitId(1, 5)), "commit.json")
    sealed.write(place, {**storage.read_json(place), "layout_version": 99})
    with pytest.raises(CheckpointError, match="another layout"):
        begin_attempt(run, FakeGroup())


@pytest.mark.parametrize("damage", [("{", "["), ('"step": 10', '"step": 11'), ("}\n", "")])
def test_a_damaged_commit_record_counts_as_torn(tmp_path: Path, damage: tuple[str, str]) -> None:
    run = str(tmp_path)
    attempt, _ = begin_attempt(run, FakeGroup())
    for step in (5, 10):
        commit(run, attempt, step)
    record = Path(commit_directory(run, CommitId(1, 10)), "commit.json")
    assert damage[0] in record.read_text()
    record.write_text(record.read_text().replace(*damage))
    assert find_latest(run, FakeGroup()).commit == CommitId(1, 5)  # type: ignore[union-attr]


def test_foreign_files_are_no_checkpoints(tmp_path: Path) -> None:
    run = str(tmp_path)
    commit(run, begin_attempt(run, FakeGroup())[0], 5)
    for name in ("checkpoints/.DS_Store", "checkpoints/notes.txt", "attempts/.attempt-0009.json.x"):
        (tmp_path / name).write_text("{")
    assert find_latest(run, FakeGroup()).commit == CommitId(1, 5)  # type: ignore[union-attr]


def test_listing_while_files_come_and_go(tmp_path: Path) -> None:
    """Another rank writes and renames temporary files in the directory that this one lists."""
    ended = threading.Event()

    def write() -> None:
        for i in itertools.count():
            if ended.is_set():
                return
            storage.write_json(str(tmp_path / f"a{i % 7}.json"), i)

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(3000):
            storage.list_names(str(tmp_path))
    finally:
        ended.set()
        for writer in writers:
            writer.join()
