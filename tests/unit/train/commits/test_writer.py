"""Commits behind the training: the copy is of the moment, one save at a time, storage that fails, what is kept."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from fakes import FakeGroup
from safetensors.torch import load_file
from whole_state import Still

from raysft import storage
from raysft.engine.slices import Slice, whole
from raysft.errors import CheckpointError, StorageError
from raysft.train.commits import writer as writing
from raysft.train.commits.checkpoint import begin_attempt, find_latest
from raysft.train.commits.layout import CommitId, commit_directory, commit_record, read_commits
from raysft.train.commits.lineage import Attempt
from raysft.train.commits.saved import write_slices
from raysft.train.commits.writer import Retention, Writer, _measured
from raysft.train.history.incidents import read_incidents
from raysft.train.state import TrainState


def make_writer(run: str, group: FakeGroup | None = None, patience_s: float = 5.0, last: int = 9) -> Writer:
    attempt, _ = begin_attempt(run, FakeGroup())
    return Writer(run, attempt, group or FakeGroup(), retention=Retention(last), facts={}, patience_s=patience_s)


class Gate:
    """Holds back every write of tensors until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open, self.entered = threading.Event(), threading.Event()

        def held(location: str, slices: list[Slice], made_progress: Callable[[], None]) -> dict[str, object]:
            self.entered.set()
            assert self.open.wait(10)
            return write_slices(location, slices, made_progress)

        monkeypatch.setattr(writing, "write_slices", held)


def test_training_goes_on_while_a_save_is_written_and_does_not_change_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, weight, gate = str(tmp_path), torch.ones(3), Gate(monkeypatch)

    def state() -> Iterator[Slice]:
        yield whole("weight:a", weight)

    writer, engine = make_writer(run), Still(state)
    writer.save(engine, TrainState(step=1))
    assert gate.entered.wait(5)
    engine.hold.end()
    weight += 1  # the next step, while the file is being written
    assert read_commits(run) == []
    gate.open.set()
    writer.save(engine, TrainState(step=2))  # waits for the first
    assert CommitId(1, 1) in read_commits(run)
    writer.finish()
    for step, value in ((1, 1.0), (2, 2.0)):
        path = tmp_path / "checkpoints" / "attempt-0001" / f"step-{step:08d}" / "rank-00000.safetensors"
        assert load_file(path)["weight:a"].tolist() == [value] * 3


def test_storage_that_fails_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = iter([True, True, False])

    def flaky(location: str, slices: list[Slice], made_progress: Callable[[], None]) -> dict[str, object]:
        if next(failures):
            raise StorageError("cannot write", got="HTTP 500", expected="", fix="")
        return write_slices(location, slices, made_progress)

    monkeypatch.setattr(writing, "write_slices", flaky)
    writer = make_writer(str(tmp_path), patience_s=2.0)
    writer.save(Still(lambda: iter([whole("weight:a", torch.ones(2))])), TrainState(step=3))
    writer.finish()
    assert read_commits(str(tmp_path)) == [CommitId(1, 3)]


@pytest.mark.parametrize("rank", [0, 1])
def test_storage_that_stays_away_ends_the_save_on_every_rank(tmp_path: Path, rank: int) -> None:
    """Rank 1 cannot write: rank 0 never commits; both raise. The commit before stays the newest."""
    run = str(tmp_path)
    first = make_writer(run)
    first.save(Still(lambda: iter([whole("weight:a", torch.ones(2))])), TrainState(step=1))
    first.finish()
    second = make_writer(run, FakeGroup(rank, 2, others_agree=rank == 0), patience_s=0.3)
    if rank == 1:
        (tmp_path / "checkpoints" / "attempt-0002").write_text("a file where a directory should be")
    second.save(
        Still(lambda: iter([whole("weight:a", torch.ones(2)), whole("weight:b", torch.ones(2))])), TrainState(step=2)
    )
    with pytest.raises(StorageError if rank else CheckpointError):
        second.finish()
    if rank == 1:
        (tmp_path / "checkpoints" / "attempt-0002").unlink()
    found = find_latest(run, FakeGroup())
    assert found is not None
    assert found.commit == CommitId(1, 1)


def test_another_ranks_failure_is_raised_here_too(tmp_path: Path) -> None:
    writer = make_writer(str(tmp_path), FakeGroup(others_agree=False))
    writer.save(Still(lambda: iter([whole("weight:a", torch.ones(2))])), TrainState(step=1))
    with pytest.raises(StorageError, match="another rank"):
        writer.finish()


def test_a_superseded_writer_cannot_commit_twice(tmp_path: Path) -> None:
    run = str(tmp_path)
    attempt, _ = begin_attempt(run, FakeGroup())
    writers = [Writer(run, attempt, FakeGroup(), retention=Retention(9), facts={}, patience_s=1) for _ in range(2)]
    for writer in writers:
        writer.save(Still(lambda: iter([whole("weight:a", torch.ones(2))])), TrainState(step=1))
    ends = []
    for writer in writers:
        try:
            writer.finish()
            ends.append("committed")
        except CheckpointError as error:
            ends.append(error.what)
    assert sorted(ends) == ["committed", "step 1 of attempt 1 is committed already"]


def test_what_is_kept() -> None:
    losses = {50: 3.0, 40: 1.0, 30: 2.0, 20: None, 10: 1.0}
    chain = [(CommitId(1, step), loss) for step, loss in losses.items()]

    def kept(retention: Retention) -> set[int]:
        return {commit.step for commit in retention.keeps(chain)}

    assert kept(Retention(2)) == {50, 40}
    assert kept(Retention(1, every_steps=20)) == {50, 40, 20}
    assert kept(Retention(1, best="held_out/loss")) == {50, 40}, "of equal losses the newer"
    assert kept(Retention(1, 30, "held_out/loss")) == {50, 40, 30}
    assert Retention(1, best="held_out/loss").keeps([(CommitId(1, 5), None)]) == {CommitId(1, 5)}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_held_out_loss_that_is_no_number_does_not_displace_the_best(bad: float) -> None:
    losses = {50: bad, 40: bad, 30: 0.5, 20: bad, 10: 0.7}
    chain = [(CommitId(1, step), loss) for step, loss in losses.items()]
    assert {commit.step for commit in Retention(1, best="held_out/loss").keeps(chain)} == {50, 30}
    assert {commit.step for commit in Retention(1, best="held_out/loss").keeps(chain[:2])} == {50}


def test_the_best_commit_outlives_newer_ones(tmp_path: Path) -> None:
    run, attempt = str(tmp_path), Attempt(1, None)
    begin_attempt(run, FakeGroup())
    writer = Writer(run, attempt, FakeGroup(), retention=Retention(1, best="held_out/loss"), facts={})
    for step, loss in ((1, 2.0), (2, 0.5), (3, 1.0), (4, math.nan)):
        writer.save(
            Still(lambda: iter([whole("weight:a", torch.ones(2))])), TrainState(step=step), {"held_out/loss": loss}
        )
    writer.finish()
    assert {commit.step for commit in read_commits(run)} == {2, 4}


def test_the_best_commit_is_that_of_a_named_measure_either_way(tmp_path: Path) -> None:
    chain = [(CommitId(1, step), value) for step, value in ((30, 0.5), (20, 0.75), (10, 0.25))]
    assert {commit.step for commit in Retention(1, best="dev/accuracy").keeps(chain)} == {30, 20}
    assert {commit.step for commit in Retention(1, best="dev/dpo").keeps(chain)} == {30, 10}
    run, attempt = str(tmp_path), Attempt(1, None)
    begin_attempt(run, FakeGroup())
    writer = Writer(run, attempt, FakeGroup(), retention=Retention(1, best="dev/accuracy"), facts={})
    for step, value in ((1, 0.5), (2, 0.9), (3, 0.7)):
        measured = {"held_out/loss": float(step), "dev/accuracy": value}
        writer.save(Still(lambda: iter([whole("weight:a", torch.ones(2))])), TrainState(step=step), measured)
    writer.finish()
    assert {commit.step for commit in read_commits(run)} == {2, 3}


def test_the_held_out_loss_of_older_commits_counts(tmp_path: Path) -> None:
    run = str(tmp_path)
    begin_attempt(run, FakeGroup())
    commit = commit_directory(run, CommitId(1, 5))
    files = [{"name": "rank-00000.safetensors", **write_slices(f"{commit}/rank-00000.safetensors", [])}]
    for facts, expected in (({"eval_loss": 1.5}, 1.5), ({"eval_loss": None}, None), ({"measured": {}}, None)):
        storage.write_json(f"{commit}/commit.json", commit_record(TrainState(step=5), files, {"attempt": 1, **facts}))
        assert _measured(run, CommitId(1, 5), "held_out/loss") == expected
        assert _measured(run, CommitId(1, 5), "dev/loss") is None


@pytest.mark.parametrize("shapes", [[], [()], [(3,), (0, 4), (2, 5)], [(7, 3, 2)]])
def test_a_file_is_what_safetensors_reads(tmp_path: Path, shapes: list[tuple[int, ...]]) -> None:
    tensors = {f"weight:Größe {i}": torch.randn(shape) for i, shape in enumerate(shapes)}
    location = str(tmp_path / "some.safetensors")
    entry = write_slices(location, [whole(key, tensor) for key, tensor in tensors.items()])
    found = load_file(location)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[key], tensor) for key, tensor in tensors.items())
    assert entry["bytes"] == (tmp_path / "some.safetensors").stat().st_size
    assert storage.list_names(str(tmp_path)) == ["some.safetensors"]


def test_how_long_storage_was_away_is_kept_and_that_training_went_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Listing fails with OSError, writing with StorageError; both are tried again."""
    failures = {"write": 1, "list": 1}
    listing = storage.list_names

    def flaky_write(location: str, slices: list[Slice], made_progress: Callable[[], None]) -> dict[str, object]:
        failures["write"] -= 1
        if failures["write"] >= 0:
            raise StorageError("cannot write", got="HTTP 500", expected="", fix="")
        return write_slices(location, slices, made_progress)

    def flaky_list(location: str) -> list[str]:
        if "step-" in location:
            failures["list"] -= 1
            if failures["list"] >= 0:
                raise OSError("AWS Error NETWORK_CONNECTION")
        return listing(location)

    writer = make_writer(str(tmp_path), patience_s=0.8)
    monkeypatch.setattr(writing, "write_slices", flaky_write)
    monkeypatch.setattr(storage, "list_names", flaky_list)
    flushed: list[bool] = []
    writer.save(
        Still(lambda: iter([whole("weight:a", torch.ones(2))])),
        TrainState(step=3),
        before=lambda: flushed.append(True),
    )
    started = time.monotonic()
    while not read_commits(str(tmp_path)):
        assert time.monotonic() - started < 5
        time.sleep(0.02)  # training
    writer.finish()
    assert flushed == [True]
    (incident,) = read_incidents(str(tmp_path))
    assert (incident.kind, incident.attempt, incident.step) == ("storage", 1, 3)
    assert incident.facts["tries"] == 2
    assert 5 > incident.facts["away_s"] >= 2 * 0.2, "a pause of 0.2 s, twice"
    assert incident.facts["waited_s"] < 0.2, "the training went on"
    assert "NETWORK_CONNECTION" in incident.what


def test_a_commit_whose_answer_was_lost_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object store made the record, and its connection broke before it said so."""
    create, lost = storage.create_exclusive, [True]

    def unanswered(location: str, value: object) -> bool:
        made = create(location, value)
        if location.endswith("commit.json") and lost.pop():
            lost.append(False)
            raise StorageError("cannot write", got="connection closed", expected="", fix="")
        return made

    monkeypatch.setattr(storage, "create_exclusive", unanswered)
    writer = make_writer(str(tmp_path), patience_s=0.8)
    writer.save(Still(lambda: iter([whole("weight:a", torch.ones(2))])), TrainState(step=3))
    writer.finish()
    assert read_commits(str(tmp_path)) == [CommitId(1, 3)]


def test_a_save_without_trouble_leaves_no_incident(tmp_path: Path) -> None:
    writer = make_writer(str(tmp_path))
    writer.save(Still(lambda: iter([whole("weight:a", torch.ones(2))])), TrainState(step=3))
    writer.finish()
    assert read_incidents(str(tmp_path)) == []


def test_a_save_that_fails_in_any_way_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread must not end in silence: the run would go on without commits."""

    def broken(location: str, slices: list[Slice], made_progress: Callable[[], None]) -> dict[str, object]:
        raise RuntimeError("no such thing as storage")

    writer = make_writer(str(tmp_path))
    monkeypatch.setattr(writing, "write_slices", broken)
    writer.save(Still(lambda: iter([whole("weight:a", torch.ones(2))])), TrainState(step=3))
    with pytest.raises(StorageError, match="no such thing as storage"):
        writer.finish()


def test_a_save_that_is_waited_for_beats_while_it_makes_progress_and_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slow storage is no hang; storage that does not answer is one, and the watchdog must see it."""
    attempt, _ = begin_attempt(str(tmp_path), FakeGroup())
    beats: list[float] = []
    writer = Writer(
        str(tmp_path),
        attempt,
        FakeGroup(),
        retention=Retention(9),
        facts={},
        beat=lambda: beats.append(time.monotonic()),
    )
    answers = threading.Event()

    def slow(location: str, slices: list[Slice], made_progress: Callable[[], None]) -> dict[str, object]:
        for _ in range(6):
            time.sleep(0.5)
            made_progress()
        stuck.append(time.monotonic())
        assert answers.wait(10)
        return write_slices(location, slices)

    stuck: list[float] = []
    monkeypatch.setattr(writing, "write_slices", slow)
    writer.save(Still(lambda: iter([whole("weight:a", torch.ones(2))])), TrainState(step=1))
    threading.Timer(5.5, answers.set).start()
    writer.finish()
    assert sum(beat <= stuck[0] for beat in beats) >= 2
    blocked = [beat for beat in beats if stuck[0] + 1.1 < beat < stuck[0] + 2.4]
    assert blocked == [], "nobody answered"
    assert read_commits(str(tmp_path)) == [CommitId(1, 1)]


def test_an_update_waits_for_the_copy_and_for_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is committed is the state of the moment of the save, however late it is read."""
    gate, may_read = Gate(monkeypatch), threading.Event()
    weight, moment = torch.ones(3), torch.full((2,), 5.0)

    def state() -> Iterator[Slice]:
        yield whole("weight:a", weight)
        assert may_read.wait(10)
        yield whole("exp_avg:a", moment)

    writer, engine = make_writer(str(tmp_path)), Still(state)
    writer.save(engine, TrainState(step=1))
    threading.Timer(0.3, may_read.set).start()
    started = time.monotonic()
    engine.hold.end()  # it is copied, and not written
    assert 0.2 < time.monotonic() - started < 5
    assert writer.held_s() == pytest.approx(time.monotonic() - started, abs=0.1)
    weight += 1
    moment += 1
    engine.hold.end()  # the update after it waits for nobody
    gate.open.set()
    writer.finish()
    path = tmp_path / "checkpoints" / "attempt-0001" / "step-00000001" / "rank-00000.safetensors"
    found = load_file(path)
    assert (found["weight:a"].tolist(), found["exp_avg:a"].tolist()) == ([1.0] * 3, [5.0] * 2)


def test_a_copy_that_fails_lets_the_update_go_on_and_is_told(tmp_path: Path) -> None:
    def state() -> Iterator[Slice]:
        yield whole("weight:a", torch.ones(2))
        raise MemoryError("no room for a copy")

    writer, engine = make_writer(str(tmp_path)), Still(state)
    writer.save(engine, TrainState(step=1))
    engine.hold.end()
    with pytest.raises(StorageError, match="no room for a copy"):
        writer.finish()
    assert read_commits(str(tmp_path)) == []
