"""Every file of a finished run directory, damaged in every way: what is read is true or absent, and named.

The list of files is made by walking the directory. The run goes on from a whole commit, with the right bits, under a
new number; nothing raises but what raysft names.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from fakes import FakeGroup
from run_dirs import DAMAGES, DATA, LAST, files_of, make_run, recipe_of, state_at, state_tensors
from whole_state import tensors_of

from raysft import sealed, storage
from raysft.errors import CheckpointError, ConflictError, StorageError
from raysft.run.evaluations import read_evaluation
from raysft.run.rundir import check_same_recipe, claim, read_result
from raysft.train.commits.checkpoint import begin_attempt, copy_commit, remove_orphans
from raysft.train.commits.layout import Checkpoint, CommitId, attempt_path, commit_directory, read_commits
from raysft.train.commits.lineage import Attempt, lineage, lineage_ranges, read_attempts
from raysft.train.history.account import read_account
from raysft.train.history.failures import read_failures
from raysft.train.history.incidents import read_incidents
from raysft.train.history.records import ledger_host, read_ledger, read_metrics
from raysft.train.history.skips import read_skips

SEED = 1


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two finished runs of different recipes in one storage."""
    root = tmp_path_factory.mktemp("whole") / "storage"
    return make_run(root, "one", SEED), make_run(root, "other", 2)


@pytest.fixture(autouse=True, scope="module")
def nobody_pulls_the_plug() -> Iterator[None]:
    """Thousands of small writes need not reach the disk."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture
def run(whole: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy of the first, to be damaged."""
    shutil.copytree(whole[0], tmp_path / "storage" / "runs" / "one")
    return tmp_path / "storage" / "runs" / "one"


def goes_on(run: Path) -> CommitId | None:
    """Begin another attempt. What it starts from is a commit of this run with this run's bits."""
    known = {attempt.number for attempt in read_attempts(str(run))}
    attempt, restored = begin_attempt(str(run), FakeGroup())
    assert attempt.number > max(known, default=0)
    assert not (run / "metrics" / f"attempt-{attempt.number:04d}.jsonl").exists()
    if restored is None:
        return None
    assert attempt.parent == restored.commit
    assert restored.state == state_at(restored.commit.step)
    expected, found = state_tensors(SEED, restored.commit.step), tensors_of(restored)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    return restored.commit


def test_the_whole_run_is_read_whole(whole: tuple[Path, Path], run: Path) -> None:
    assert len(files_of(run)) > 25
    assert read_attempts(str(run)) == [Attempt(1, None), Attempt(2, CommitId(1, 6))]
    assert [line["step"] for line in read_metrics(str(run)) if line["kind"] == "step"] == list(range(1, LAST + 1))
    assert goes_on(run) == CommitId(2, LAST)


@pytest.mark.parametrize("half", [0, pytest.param(1, marks=pytest.mark.full)])
@pytest.mark.parametrize("damage", DAMAGES)
def test_whatever_file_is_damaged_what_is_read_is_true(
    whole: tuple[Path, Path], tmp_path: Path, damage: str, half: int
) -> None:
    one, other = whole
    for number, name in enumerate(files_of(one)):
        if (number + list(DAMAGES).index(damage)) % 2 != half:
            continue
        run = tmp_path / str(number) / "storage" / "runs" / "one"
        shutil.copytree(one, run)
        DAMAGES[damage](run / name, other / name)
        try:
            _holds(one, run, name, damage)
        except Exception as error:
            raise AssertionError(f"{name}, {damage}: {error!r}") from error
        shutil.rmtree(tmp_path / str(number))


def _holds(one: Path, run: Path, name: str, damage: str) -> None:
    recipe, place = recipe_of(run.parents[1], "one", SEED), str(run)
    metrics = read_metrics(str(one))
    assert all(any(true.items() <= line.items() for true in metrics) for line in read_metrics(place))
    ledger = read_ledger(str(one))
    assert all(set(samples) <= set(ledger[step]) for step, samples in read_ledger(place).items())
    assert all(failure in read_failures(str(one)) for failure in read_failures(place))
    assert all(incident in read_incidents(str(one)) for incident in read_incidents(place))
    assert [skip.step for skip in read_skips(place)] == ([] if "skips" in name and damage == "deleted" else [3])
    assert ledger_host(place, 1, 0) in (ledger_host(str(one), 1, 0), "?")
    account = read_account(place)
    assert sum(account.seconds.values()) == pytest.approx(account.wall_s)
    result = read_result(place)
    assert result is None or result.items() >= read_result(str(one)).items()  # type: ignore[union-attr]
    try:
        check_same_recipe(place, recipe)
        prints = claim(place, recipe, DATA)
    except StorageError as refused:
        if (name, damage) == ("run.json", "a directory") and "run.json" in refused.what:
            return
        raise
    except ConflictError as refused:
        is_foreign = "run.json" in name and damage in ("another run's", "another's, by a link")
        if is_foreign and "optimizer.learning_rate: 2.1 -> 1.1" in str(refused):
            return
        raise
    assert prints == claim(str(one), recipe, DATA)
    for when in ("before", "after"):
        found = read_evaluation(place, when, prints)
        assert found is None or found.items() >= read_evaluation(str(one), when, prints).items()  # type: ignore
    begun = goes_on(run)
    assert begun is not None
    if not name.startswith("checkpoints/attempt-0002") or name.endswith(("00000.json", "00001.json")):
        assert begun == CommitId(2, LAST)  # nothing that was committed is lost
    else:
        assert begun in (CommitId(2, LAST), CommitId(1, 6))
    remove_orphans(place)
    assert begun in read_commits(place)


@pytest.mark.parametrize("lost", ["attempts", "metrics", "ledger", "goodput", "incidents", "failures", "evaluation"])
def test_a_whole_directory_may_be_gone(run: Path, lost: str) -> None:
    shutil.rmtree(run / lost)
    assert read_attempts(str(run)) == [Attempt(1, None), Attempt(2, CommitId(1, 6))]
    read_account(str(run))
    assert goes_on(run) == CommitId(2, LAST)
    assert read_attempts(str(run))[-1] == Attempt(3, CommitId(2, LAST))


def test_attempts_are_found_again_without_what_newer_commits_say(run: Path) -> None:
    """As commits of older versions: they do not name their attempt's parent."""
    shutil.rmtree(run / "attempts")
    for path in run.glob("checkpoints/*/*/commit.json"):
        record = json.loads(path.read_text())
        del record["facts"]["parent"], record["facts"]["attempt"]
        path.write_text(json.dumps(sealed.sealed(record)))
    assert read_attempts(str(run)) == [Attempt(1, None), Attempt(2, CommitId(1, 6))]
    shutil.rmtree(run / "metrics")
    assert read_attempts(str(run)) == [Attempt(1, None), Attempt(2, CommitId(1, 6))]
    assert goes_on(run) == CommitId(2, LAST)


@pytest.mark.parametrize(
    "record",
    [
        {"number": 2, "parent": {"attempt": 2, "step": 4}},
        {"number": 2, "parent": {"attempt": 7, "step": 4}},
        {"number": 2, "parent": {"attempt": 1, "step": -4}},
        {"number": 2, "parent": {"attempt": 1, "step": True}},
        {"number": 2, "parent": {}},
        {"number": 1, "parent": None},
    ],
)
def test_an_attempt_that_cannot_be_is_made_anew(run: Path, record: dict[str, object]) -> None:
    storage.write_json(attempt_path(str(run), 2), record)
    assert read_attempts(str(run)) == [Attempt(1, None), Attempt(2, CommitId(1, 6))]
    assert lineage_ranges(str(run)) == [(1, 0, 6), (2, 6, None)]


def test_no_lineage_goes_in_a_circle() -> None:
    """Whoever made these."""
    circle = [Attempt(1, CommitId(2, 9)), Attempt(2, CommitId(1, 9)), Attempt(3, CommitId(3, 9))]
    assert lineage(circle, [CommitId(3, 4), CommitId(2, 3)]) == [CommitId(3, 4)]


def test_stray_files_beside_the_records_are_nothing(run: Path) -> None:
    for name in files_of(run):
        for stray in (f"{name}.bak", f"{name}~", f"{Path(name).parent}/.{Path(name).name}.x1"):
            (run / stray).write_text("{")
    assert read_attempts(str(run)) == [Attempt(1, None), Attempt(2, CommitId(1, 6))]
    assert len(read_failures(str(run))) == len(read_incidents(str(run))) == len(read_skips(str(run))) == 1
    read_account(str(run))
    assert goes_on(run) == CommitId(2, LAST)


@pytest.mark.parametrize("where", ["attempt-0003", "attempt-0002/step-00000099", "step-1", "loop"])
def test_links_among_the_checkpoints_are_no_checkpoints(run: Path, where: str) -> None:
    root = run / "checkpoints"
    (root / where).symlink_to(root if where == "loop" else root / "attempt-0001", target_is_directory=True)
    assert goes_on(run) == CommitId(2, LAST)
    remove_orphans(str(run))
    assert len(read_commits(str(run))) == 4


def move(run: Path, old: CommitId, new: CommitId) -> None:
    directory = Path(commit_directory(str(run), new))
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(commit_directory(str(run), old), directory)


def test_a_commit_is_of_its_step_attempt_and_run(
    run: Path, whole: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    move(run, CommitId(1, 4), CommitId(2, 12))
    assert goes_on(run) == CommitId(2, LAST)
    assert "it is of step 4, not 12" in caplog.text
    move(run, CommitId(1, 4), CommitId(2, 4))
    with pytest.raises(ValueError, match="it is of attempt 1, not 2"):
        Checkpoint.open(str(run), CommitId(2, 4))
    newest = Path(commit_directory(str(run), CommitId(2, LAST)))
    shutil.rmtree(newest)
    shutil.copytree(commit_directory(str(whole[1]), CommitId(2, LAST)), newest)
    with pytest.raises(ValueError, match="of another run"):
        Checkpoint.open(str(run), CommitId(2, LAST))


def test_another_runs_attempts_do_not_make_its_own_commits_orphans(run: Path, whole: tuple[Path, Path]) -> None:
    """An attempt record and its commits that were copied here are nobody's: nothing of ours goes for them."""
    foreign = str(whole[1])
    for name, of in (("attempt-0007", whole[1] / "checkpoints" / "attempt-0002"),):
        shutil.copytree(of, run / "checkpoints" / name)
    record = storage.read_json(attempt_path(foreign, 2)) | {"number": 7, "parent": {"attempt": 1, "step": 2}}
    sealed.write(attempt_path(str(run), 7), record)
    remove_orphans(str(run))
    assert CommitId(2, LAST) in read_commits(str(run))
    assert goes_on(run) == CommitId(2, LAST)


@pytest.mark.parametrize("name", ["../step-00000006/rank-00000.safetensors", "/etc/passwd", "..", "a/b", ".hidden"])
def test_a_commit_names_files_below_itself_only(run: Path, name: str) -> None:
    place = Path(commit_directory(str(run), CommitId(2, LAST))) / "commit.json"
    record = json.loads(place.read_text())
    record["files"][0]["name"] = name
    place.write_text(json.dumps(sealed.sealed(record)))
    with pytest.raises(ValueError, match="outside of its directory"):
        Checkpoint.open(str(run), CommitId(2, LAST))
    assert goes_on(run) == CommitId(1, 6)


def test_every_bit_of_a_commit_record_counts(run: Path) -> None:
    """Also those of `layout_version`: a damaged version is a torn record, not another layout."""
    place = Path(commit_directory(str(run), CommitId(2, LAST))) / "commit.json"
    text = place.read_bytes()
    true = Checkpoint.open(str(run), CommitId(2, LAST)).record
    for bit in range(0, 8 * len(text), 7):
        data = bytearray(text)
        data[bit // 8] ^= 1 << bit % 8
        place.write_bytes(bytes(data))
        try:
            assert Checkpoint.open(str(run), CommitId(2, LAST)).record == true  # white space
        except ValueError:
            continue


def test_a_trial_may_hold_a_copy_of_anothers_commit(run: Path, whole: tuple[Path, Path]) -> None:
    """Population-based training: the copy is another run's by its mathematics, and named by the attempt record."""
    child = run.parent / "child"
    copy_commit(str(whole[1]), str(child), LAST)
    claim(str(child), recipe_of(run.parents[1], "child", SEED), DATA)
    copied = Checkpoint.open(str(child), CommitId(1, LAST))
    assert torch.equal(tensors_of(copied)["weight:a.weight"], state_tensors(2, LAST)["weight:a.weight"])
    move(child, CommitId(1, LAST), CommitId(1, 9))  # and no other
    with pytest.raises(ValueError, match="of step 8"):
        Checkpoint.open(str(child), CommitId(1, 9))


@pytest.mark.parametrize("damage", ["cut", "flipped", "deleted"])
@pytest.mark.parametrize("name", ["commit.json", "rank-00001.safetensors"])
def test_a_copy_is_of_the_step_that_was_meant_or_none(run: Path, name: str, damage: str) -> None:
    """A trial whose source has lost it would else begin anew, or from another step, in silence."""
    child = run.parent / "child"
    with pytest.raises(CheckpointError, match="of step 7"):
        copy_commit(str(run), str(child), 7)
    file = Path(commit_directory(str(run), CommitId(2, LAST))) / name
    DAMAGES[damage](file, file)
    with pytest.raises(CheckpointError, match=f"of step {LAST}"):
        copy_commit(str(run), str(child), LAST)
    assert read_attempts(str(child)) == []
    copy_commit(str(run), str(child), 6)
    assert Checkpoint.open(str(child), CommitId(1, 6)).state == state_at(6)


def test_a_damaged_record_is_named_once(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = attempt_path(str(run), 2)
    Path(place).write_text('{"number": 2')
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            read_attempts(str(run))
    assert caplog.text.count(place) == 1


def test_nothing_at_all_is_read_of_a_storage_that_is_away(tmp_path: Path) -> None:
    assert read_attempts(str(tmp_path / "no")) == []
    assert read_metrics(str(tmp_path / "no")) == []
    assert read_account(str(tmp_path / "no")).wall_s == 0
