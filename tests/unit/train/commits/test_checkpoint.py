"""Checkpoints: lineage as a pure function, torn files, fences, one committer, retention, the choice at a resume."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from commits import commit, tensors
from fakes import FakeGroup
from safetensors.torch import load_file
from whole_state import tensors_of

from raysft import storage
from raysft.errors import CheckpointError
from raysft.train.commits import checkpoint
from raysft.train.commits.checkpoint import begin_attempt, find_latest, remove_orphans
from raysft.train.commits.layout import Checkpoint, CommitId, commit_directory, read_commits
from raysft.train.commits.lineage import Attempt, lineage, read_attempts
from raysft.train.history.incidents import read_incidents
from raysft.train.state import TrainState

A1 = Attempt(1, None)


@pytest.mark.parametrize("size", [1, 2, 3, 10])
def test_a_commit_is_read_whole_whatever_the_number_of_ranks(tmp_path: Path, size: int) -> None:
    run = str(tmp_path)
    attempt, restored = begin_attempt(run, FakeGroup())
    assert (attempt, restored) == (A1, None)
    commit(run, attempt, 7, size=size)
    found = find_latest(run, FakeGroup())
    assert found is not None
    assert found.commit == CommitId(1, 7)
    assert found.state == TrainState(step=7)
    assert found.record["facts"] == {
        **found.record["facts"],
        "who": "test",
        "measured": {},
        "attempt": 1,
        "parent": None,
    }
    expected, read = tensors(7), tensors_of(found)
    assert expected.keys() == read.keys()
    assert all(torch.equal(expected[key], read[key]) for key in expected)
    weights = dict(found.weights())
    assert weights.keys() == {"a.weight", "b.bias"}
    assert torch.equal(weights["b.bias"], expected["weight:b.bias"])


def test_what_is_cut_off_may_commit_and_delete_until_the_new_attempt_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With keep_last = 1 its commit deletes the one that the new attempt has chosen."""
    run = str(tmp_path)
    cut_off, _ = begin_attempt(run, FakeGroup())
    commit(run, cut_off, 6)
    record, late = checkpoint._record_attempt, [12]

    def slow(run: str, parent: CommitId | None) -> int:
        while late:
            commit(run, cut_off, late.pop(), keep_last=1)
        return record(run, parent)

    monkeypatch.setattr(checkpoint, "_record_attempt", slow)
    attempt, restored = begin_attempt(run, FakeGroup())
    assert restored is not None
    assert (attempt.parent, restored.commit, restored.state.step) == (CommitId(1, 12), CommitId(1, 12), 12)
    commit(run, cut_off, 18, keep_last=1)  # from now on it is fenced
    assert find_latest(run, FakeGroup()) is not None
    assert lineage(read_attempts(run), read_commits(run)) == [CommitId(1, 12)]


def test_each_rank_holds_a_share_and_files_are_plain_safetensors(tmp_path: Path) -> None:
    commit(str(tmp_path), begin_attempt(str(tmp_path), FakeGroup())[0], 1, size=3)
    directory = Path(commit_directory(str(tmp_path), CommitId(1, 1)))
    shares = [set(load_file(directory / f"rank-{rank:05d}.safetensors")) for rank in range(3)]
    assert [len(share) for share in shares] == [6, 6, 7], "of each tensor; the number is one rank's"
    sizes = [sum(t.numel() for t in load_file(directory / f"rank-{r:05d}.safetensors").values()) for r in range(3)]
    assert sizes == [30, 30, 31]


def test_an_attempt_goes_on_from_the_newest_commit(tmp_path: Path) -> None:
    run = str(tmp_path)
    first, _ = begin_attempt(run, FakeGroup())
    commit(run, first, 5)
    commit(run, first, 10)
    second, restored = begin_attempt(run, FakeGroup())
    assert second == Attempt(2, CommitId(1, 10))
    assert restored is not None
    assert restored.state.step == 10
    assert read_attempts(run) == [first, second]


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 8
    path.write_bytes(data)


def cut_the_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


DAMAGES = {"bit flip": flip_a_bit, "truncation": cut_the_end, "missing": Path.unlink}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("rank", [0, 1])
def test_a_torn_checkpoint_is_skipped_with_a_warning(
    tmp_path: Path, damage: str, rank: int, caplog: pytest.LogCaptureFixture
) -> None:
    run = str(tmp_path)
    attempt, _ = begin_attempt(run, FakeGroup())
    for step in (5, 10):
        commit(run, attempt, step)
    DAMAGES[damage](Path(commit_directory(run, CommitId(1, 10)), f"rank-{rank:05d}.safetensors"))
    with caplog.at_level(logging.WARNING):
        second, restored = begin_attempt(run, FakeGroup())
    assert "skipping the checkpoint of step 10" in caplog.text
    assert f"rank-{rank:05d}.safetensors" in caplog.text
    assert restored is not None
    assert restored.commit == second.parent == CommitId(1, 5)
    (incident,) = read_incidents(run)
    assert (incident.kind, incident.attempt, incident.step) == ("torn", 2, 10)
    assert f"rank-{rank:05d}.safetensors" in incident.what
    commit(run, second, 7)  # the torn step 10 of attempt 1 never comes back
    assert find_latest(run, FakeGroup()).commit == CommitId(2, 7)  # type: ignore[union-attr]


def test_with_every_checkpoint_torn_a_run_begins_anew(tmp_path: Path) -> None:
    run = str(tmp_path)
    attempt, _ = begin_attempt(run, FakeGroup())
    commit(run, attempt, 5, size=1)
    flip_a_bit(Path(commit_directory(run, CommitId(1, 5)), "rank-00000.safetensors"))
    assert begin_attempt(run, FakeGroup()) == (Attempt(2, None), None)


def test_a_checkpoint_that_another_rank_finds_torn_is_not_used(tmp_path: Path) -> None:
    run = str(tmp_path)
    commit(run, begin_attempt(run, FakeGroup())[0], 5)
    assert find_latest(run, FakeGroup(rank=0, size=2)) is not None
    assert find_latest(run, FakeGroup(rank=0, size=2, others_agree=False)) is None


def test_a_damaged_record_is_told_too(tmp_path: Path) -> None:
    run = str(tmp_path)
    commit(run, begin_attempt(run, FakeGroup())[0], 5)
    flip_a_bit(Path(commit_directory(run, CommitId(1, 5)), "commit.json"))
    begin_attempt(run, FakeGroup())
    (incident,) = read_incidents(run)
    assert (incident.kind, incident.step) == ("torn", 5)
    assert "commit record" in incident.what


def test_the_ranks_check_all_files_between_them(tmp_path: Path) -> None:
    run = str(tmp_path)
    commit(run, begin_attempt(run, FakeGroup())[0], 5, size=5)
    cut_the_end(Path(commit_directory(run, CommitId(1, 5)), "rank-00003.safetensors"))
    checkpoint = Checkpoint.open(run, CommitId(1, 5))
    for size in (1, 2, 3, 7):
        problems = [checkpoint.verify(rank, size) for rank in range(size)]
        assert sum(problem is not None for problem in problems) == 1


def test_files_without_a_commit_record_are_no_checkpoint(tmp_path: Path) -> None:
    run = str(tmp_path)
    attempt, _ = begin_attempt(run, FakeGroup())
    commit(run, attempt, 5)
    commit(run, attempt, 10)
    Path(commit_directory(run, CommitId(1, 10)), "commit.json").unlink()
    assert read_incidents(run) == []
    assert read_commits(run) == [CommitId(1, 5)]
    assert begin_attempt(run, FakeGroup())[0].parent == CommitId(1, 5)


def test_what_a_fenced_attempt_still_writes_is_never_loaded(tmp_path: Path) -> None:
    run = str(tmp_path)
    first, _ = begin_attempt(run, FakeGroup())
    commit(run, first, 5)
    second, _ = begin_attempt(run, FakeGroup())
    commit(run, first, 10)  # the first group was only cut off, and is still at work
    commit(run, first, 15)
    assert find_latest(run, FakeGroup()).commit == CommitId(1, 5)  # type: ignore[union-attr]
    commit(run, second, 8)
    assert find_latest(run, FakeGroup()).commit == CommitId(2, 8)  # type: ignore[union-attr]
    assert begin_attempt(run, FakeGroup())[0] == Attempt(3, CommitId(2, 8))


def test_two_committers_of_one_step_are_an_error(tmp_path: Path) -> None:
    run = str(tmp_path)
    attempt, _ = begin_attempt(run, FakeGroup())
    commit(run, attempt, 5, size=1)
    with pytest.raises(CheckpointError, match="committed already") as caught:
        commit(run, attempt, 5, size=1)
    assert caught.value.fix


def test_two_groups_that_start_at_once_are_two_attempts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = str(tmp_path)
    own, groups = storage.create_exclusive, []

    def overtaken(location: str, value: object) -> bool:
        if not groups:
            groups.append(True)
            begin_attempt(run, FakeGroup())
        return own(location, value)

    monkeypatch.setattr(storage, "create_exclusive", overtaken)
    attempt, _ = begin_attempt(run, FakeGroup())
    assert attempt.number == 2
    assert [a.number for a in read_attempts(run)] == [1, 2]


@pytest.mark.parametrize("keep_last", [1, 2, 3])
def test_older_commits_are_deleted(tmp_path: Path, keep_last: int) -> None:
    run = str(tmp_path)
    attempt, _ = begin_attempt(run, FakeGroup())
    for step in range(1, 6):
        commit(run, attempt, step, keep_last=keep_last)
    assert sorted(c.step for c in read_commits(run)) == list(range(1, 6))[-keep_last:]
    directories = storage.list_names(storage.join(run, "checkpoints", "attempt-0001"))
    assert len(directories) == keep_last


def test_retention_counts_over_attempts(tmp_path: Path) -> None:
    run = str(tmp_path)
    first, _ = begin_attempt(run, FakeGroup())
    commit(run, first, 5, keep_last=2)
    commit(run, first, 10, keep_last=2)
    second, _ = begin_attempt(run, FakeGroup())
    commit(run, second, 15, keep_last=2)
    assert set(read_commits(run)) == {CommitId(1, 10), CommitId(2, 15)}
    assert find_latest(run, FakeGroup()).commit == CommitId(2, 15)  # type: ignore[union-attr]


def test_checkpoints_live_at_a_uri_too(tmp_path: Path) -> None:
    run = f"memory://{tmp_path.name}/run"
    first, _ = begin_attempt(run, FakeGroup())
    commit(run, first, 5, keep_last=1)
    commit(run, first, 10, keep_last=1)
    second, restored = begin_attempt(run, FakeGroup())
    assert second == Attempt(2, CommitId(1, 10))
    assert restored is not None
    assert torch.equal(tensors_of(restored)["weight:a.weight"], tensors(10)["weight:a.weight"])
    assert read_commits(run) == [CommitId(1, 10)]


def test_ranks_follow_rank_0_whatever_they_see_themselves(tmp_path: Path) -> None:
    """Rank 1 may list the directory earlier or later than rank 0 did."""

    class Told(FakeGroup):
        def __init__(self, *values: int) -> None:
            super().__init__(rank=1, size=2)
            self.values = list(values)

        def from_rank_0(self, value: int) -> int:
            return self.values.pop(0)

    run = str(tmp_path)
    attempt, _ = begin_attempt(run, FakeGroup())
    for step in (5, 10):
        commit(run, attempt, step)
    assert find_latest(run, Told(0)) is None
    assert find_latest(run, Told(1, 1, 5)).commit == CommitId(1, 5)  # type: ignore[union-attr]


def test_orphans_are_removed_and_nothing_else(tmp_path: Path) -> None:
    run = str(tmp_path)
    first, _ = begin_attempt(run, FakeGroup())
    for step in (1, 2, 3):
        commit(run, first, step)
    flip_a_bit(tmp_path / "checkpoints/attempt-0001/step-00000003/rank-00000.safetensors")
    second, found = begin_attempt(run, FakeGroup())
    assert found is not None
    commit(run, second, 3)
    torn = tmp_path / "checkpoints/attempt-0002/step-00000004"
    torn.mkdir()
    (torn / ".rank-00000.safetensors.x1").write_bytes(b"half")
    (tmp_path / "checkpoints/mine.txt").write_text("not ours")
    remove_orphans(run)
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("checkpoints/*/*"))
    assert left == [f"checkpoints/attempt-000{a}/step-0000000{s}" for a, s in ((1, 1), (1, 2), (2, 3))]
    assert (tmp_path / "checkpoints/mine.txt").exists()
    again = find_latest(run, FakeGroup())
    assert again is not None
    assert again.commit == CommitId(2, 3)
