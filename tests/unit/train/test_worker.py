"""What all ranks agree on when one of them cannot be set up, and what is written down when training breaks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeEngine, FakeGroup
from token_stores import examples, write
from workers import make_context

from raysft.data.store.manifest import write_manifest
from raysft.errors import DataError, ModelError, from_fields
from raysft.train.commits.lineage import Attempt
from raysft.train.history.failures import describe_failure, read_failures, write_failure
from raysft.train.session import Session
from raysft.train.state import Outcome
from raysft.train.worker import Parts, _recording, _try_set_up
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

    def make(group: FakeGroup) -> WorkerContext:
        return make_context(str(tmp_path / "run"), group, train_store=store)

    return make


def parts(module: Callable[..., Any] = lambda context: object(), engine: Any = None) -> Parts:
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
