"""What all ranks agree on when one of them cannot be set up, and what is written down when training breaks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fakes import FakeEngine, FakeGroup
from token_stores import examples, write
from workers import make_context

from raysft.data.store.manifest import write_manifest
from raysft.errors import DataError, ModelError, from_fields
from raysft.objectives.reduce import FirstRows, Sums
from raysft.train import worker
from raysft.train.commits.lineage import Attempt
from raysft.train.history.failures import describe_failure, read_failures, write_failure
from raysft.train.session import Session
from raysft.train.state import Outcome
from raysft.train.watch import watchdog
from raysft.train.worker import Parts, _recording, _try_set_up, train_worker
from raysft.train.worker_input import WorkerContext

ATTEMPT = Attempt(2, None)
WRONG = ModelError("the model is damaged", got="a", expected="b", fix="c")


class Whole(FakeEngine):
    """An engine that can be taken down."""

    def close(self) -> None: ...


@pytest.fixture
def context(tmp_path: Path) -> Callable[..., WorkerContext]:
    """Of a rank of a run in tmp_path, with a small store."""
    store = str(tmp_path / "store")
    write_manifest(store, {"parts": write(store, [examples(40, 1)]), "max_tokens": 64})

    def make(group: FakeGroup, **more: Any) -> WorkerContext:
        return make_context(str(tmp_path / "run"), group, train_store=store, **more)

    return make


def parts(module: Callable[..., Any] = lambda context: SimpleNamespace(vocab_size=900), engine: Any = None) -> Parts:
    return Parts(module, engine or (lambda module, run, device, restored: Whole()))


def fails(error: Exception) -> Callable[..., Any]:
    def raise_it(*_: object) -> Any:
        raise error

    return raise_it


def test_a_rank_that_is_ready_gets_rows_of_its_store(context: Any) -> None:
    found = _try_set_up(context(FakeGroup()), ATTEMPT, None, parts())
    assert isinstance(found, Session)
    batch = found.batches(0)
    assert sum(len(micro.sample_ids) for micro in batch.micro_batches) > 0
    assert found.evaluate(lambda: None) == {}
    assert (found.state.step, found.probed.micro_batch_rows) == (0, 1)


def test_an_error_of_this_rank_is_everybodys_outcome(context: Any, tmp_path: Path) -> None:
    group = FakeGroup()
    found = _try_set_up(context(group), ATTEMPT, None, parts(module=fails(WRONG)))
    assert isinstance(found, Outcome)
    assert found.error is not None
    assert (found.status, str(from_fields(found.error))) == ("failed", str(WRONG))
    assert group.barriers == 1, "all have written before one reads"
    (record,) = read_failures(str(tmp_path / "run"))
    assert (record.attempt, record.rank, record.certain) == (2, 0, True)


def test_an_error_of_another_rank_is_read_from_what_it_wrote(context: Any, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    for attempt, rank in ((1, 0), (2, 1)):
        error = DataError(f"attempt {attempt}", got="a", expected="b", fix="c")
        write_failure(run, describe_failure(error, attempt=attempt, rank=rank, step=0, certain=True))
    found = _try_set_up(context(FakeGroup(0, 2, others_agree=False)), ATTEMPT, None, parts())
    assert isinstance(found, Outcome)
    assert found.error is not None
    assert type(from_fields(found.error)) is DataError
    assert "attempt 2" in str(from_fields(found.error)), "not of an earlier attempt"


def test_an_engine_that_all_ranks_refuse(context: Any) -> None:
    found = _try_set_up(context(FakeGroup()), ATTEMPT, None, parts(engine=fails(WRONG)))
    assert isinstance(found, Outcome)
    assert found.error is not None
    assert found.error["what"] == WRONG.what


@pytest.mark.parametrize(("place", "attempt"), [("commits", 0), ("module", 1), ("engine", 1)])
def test_set_up_that_hangs_is_left_wherever_it_does(
    context: Any, monkeypatch: pytest.MonkeyPatch, place: str, attempt: int
) -> None:
    """Before a commit is looked for, in the module and in the engine."""
    left, told = [], Event()

    def leave(run: str, *numbers: Any) -> None:
        left.append((*numbers[:3], "in hangs" in numbers[3]))
        told.set()

    def hangs(*_: object) -> Any:
        assert told.wait(30)
        raise WRONG

    monkeypatch.setattr(watchdog, "leave", leave)
    monkeypatch.setattr(worker, "TorchGroup", lambda device: FakeGroup(0, 1))
    monkeypatch.setattr(worker.torch, "set_num_threads", lambda number: None)
    if place == "commits":
        monkeypatch.setattr(worker, "begin_attempt", hangs)
    made = context(FakeGroup(), sections={"cluster": {"setup_timeout_s": 0.2, "bind_cpus": False}})
    given = parts(**({} if place == "commits" else {place: hangs}))
    if place == "commits":
        with pytest.raises(ModelError):
            train_worker(asdict(made.job), given)
    else:
        assert train_worker(asdict(made.job), given)["error"]["what"] == WRONG.what
    assert left == [(attempt, 0, 1, True)]


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({}, FirstRows(2, 1.0)),  # of the four that are wanted a step has two
        ({"train": {"rows_per_step": 8}}, FirstRows(4, 1.0)),
        ({"method": {"kind": "lora"}, "export": {"merged": False}}, None),
        ({"method": {"kind": "prompt", "virtual_tokens": 2}}, None),
    ],
)
def test_a_few_held_out_rows_are_measured_by_themselves_where_a_whole_model_is_exported(
    context: Any, tmp_path: Path, sections: dict[str, Any], expected: FirstRows | None
) -> None:
    store = str(tmp_path / "store")
    held_out = {"data": {"eval": "e.jsonl"}, **sections}
    found = _try_set_up(
        context(FakeGroup(), sections=held_out, eval_stores={"held_out": store}), ATTEMPT, None, parts()
    )
    assert isinstance(found, Session)
    assert found.evaluate(lambda: None)["held_out"].first == expected


class Leaking(Whole):
    """Its losses are no sums over samples, unless each is in a row of its own."""

    def eval_step(self, micro_batches: Any, units: Any) -> Sums:
        (batch,) = micro_batches
        mixed = float(np.sin(batch.input_ids.sum())) if len(batch.input_ids) == 1 else 0.0
        return Sums({"nll": units["nll"] + mixed}, dict(units))


def test_an_engine_in_which_samples_see_each_other_is_refused_before_its_first_step(
    context: Any, tmp_path: Path
) -> None:
    engines: list[Leaking] = []

    def engine(*_: object) -> Leaking:
        engines.append(Leaking())
        return engines[-1]

    found = _try_set_up(context(FakeGroup()), ATTEMPT, None, parts(engine=engine))
    assert isinstance(found, Outcome)
    assert found.error is not None
    assert "see each other" in found.error["what"]
    assert [step for step, _ in engines[0].calls] == [0], "the probe's"
    (record,) = read_failures(str(tmp_path / "run"))
    assert record.certain, "no restart mends it"


def test_what_breaks_in_the_loop_is_written_with_the_step_it_reached_and_raised(context: Any, tmp_path: Path) -> None:
    steps = [3]

    def broken() -> None:
        with _recording(context(FakeGroup(1, 2)), ATTEMPT, lambda: steps[-1]):
            steps.append(7)
            raise ZeroDivisionError("by nobody")

    with pytest.raises(ZeroDivisionError):
        broken()
    (record,) = read_failures(str(tmp_path / "run"))
    assert (record.attempt, record.rank, record.step, record.certain) == (2, 1, 7, False)
    assert "by nobody" in record.what
    with _recording(context(FakeGroup()), Attempt(3, None), lambda: 1):
        steps.append(8)
    assert len(read_failures(str(tmp_path / "run"))) == 1, "nothing is written of what went well"
