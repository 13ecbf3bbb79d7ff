"""Every border that an error crosses keeps its kind, its words and its exit code."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pytest
import ray
from fakes import make_recipe
from ray.exceptions import RayTaskError
from ray.train.v2.api.exceptions import WorkerGroupError

from raysft import errors
from raysft.data import on_ray
from raysft.data.feed import stream_server
from raysft.errors import DataError, RaysftError, StorageError, from_fields, to_fields
from raysft.run import attempts
from raysft.run.attempts import as_error
from raysft.run.failure import Stop
from raysft.run.ray_failures import classify
from raysft.runtime import join
from raysft.train.history.failures import describe_failure, read_failures, write_failure
from raysft.train.state import Outcome

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, RaysftError)]
SAID = {"got": "a pipe", "expected": "none", "fix": "call a plumber"}


class ForeignError(DataError):
    """Of a module that the other side of a border need not have."""


def in_ray(error: Exception) -> Any:
    """As `ray.get` raises it: one object of two classes."""
    return RayTaskError("f", "a traceback", error).as_instanceof_cause()


def by_a_data_task(error: RaysftError, _: Path) -> Exception:
    def task(item: dict[str, Any]) -> Iterator[pa.Table]:
        yield pa.table({"a": [1]})
        raise error

    *_, last = on_ray._guarded(pa.Table.from_pylist([{"x": 1}]), task)
    (text,) = last.column("failure").to_pylist()
    return from_fields(json.loads(text))


def by_a_failure_record(error: RaysftError, run: Path) -> Exception:
    """Rank 1 writes it down, all ranks read it, their outcome goes to the driver as JSON."""
    write_failure(str(run), describe_failure(error, attempt=1, rank=1, step=3, certain=False))
    (record,) = read_failures(str(run))
    outcome = attempts.failures.as_outcome(record)
    return as_error(str(run), Outcome(**json.loads(json.dumps(outcome.to_json()))))


def by_a_task(error: RaysftError, _: Path) -> Exception:
    return on_ray.raised_in_task(in_ray(in_ray(error)))


def by_the_fields(error: RaysftError, _: Path) -> Exception:
    return from_fields(to_fields(in_ray(error)))


@pytest.mark.parametrize("border", [by_a_data_task, by_a_failure_record, by_a_task, by_the_fields])
@pytest.mark.parametrize("kind", KINDS)
def test_an_error_keeps_its_kind(
    kind: type[RaysftError], border: Callable[[RaysftError, Path], Exception], tmp_path: Path
) -> None:
    error = kind("it broke", **SAID)
    other = border(error, tmp_path)
    assert isinstance(other, RaysftError)
    assert (type(other), str(other), other.exit_code) == (kind, str(error), kind.exit_code)


@pytest.mark.parametrize("kind", KINDS)
def test_tasks_and_actors_raise_what_was_raised(kind: type[RaysftError], monkeypatch: pytest.MonkeyPatch) -> None:
    def get(reference: Any, timeout: float = 0.0) -> NoReturn:
        raise in_ray(kind("it broke", **SAID))

    class Remote:
        def options(self, **_: Any) -> Remote:
            return self

        def remote(self, *_: Any) -> None: ...

    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(ray, "remote", lambda function: Remote())
    for call in (
        lambda: stream_server._answer(None),
        lambda: join.run_task(make_recipe().cluster, lambda: None),
    ):
        with pytest.raises(kind) as raised:
            call()
        assert type(raised.value) is kind


def test_a_class_from_elsewhere_arrives_as_the_nearest_one_of_the_tree() -> None:
    fields = to_fields(ForeignError("it broke", **SAID))
    assert fields == {"kind": "DataError", "what": "it broke", **SAID}
    assert type(from_fields({**fields, "kind": "ForeignError"})) is errors.PlatformError


def test_storage_that_stays_away_ends_a_run_as_what_it_is(tmp_path: Path) -> None:
    """Exit code 2, and the words of the storage; not that workers failed too often."""
    error = StorageError("cannot write s3://x", got="HTTP 500", expected="room", fix="see the bucket")
    write_failure(str(tmp_path), describe_failure(error, attempt=0, rank=1, step=4, certain=False))
    ended = attempts._ended(
        str(tmp_path), WorkerGroupError("ranks", {1: RuntimeError("as Ray tells it")}), 0, workers=2
    )
    outcome = attempts._given_up(str(tmp_path), ended, Stop("4 failures", "mend it"))
    assert (type(as_error("", outcome)), str(as_error("", outcome))) == (StorageError, str(error))


def test_workers_that_keep_dying_are_the_platforms(tmp_path: Path) -> None:
    ended = attempts._ended(str(tmp_path), WorkerGroupError("ranks", {1: RuntimeError("Read error")}), 0, workers=2)
    outcome = attempts._given_up(str(tmp_path), ended, Stop("4 failures", "mend it"))
    error = as_error("", Outcome(**asdict(outcome)))
    assert (type(error), error.got, error.fix) == (errors.TrainingError, "4 failures", "mend it")


def test_rays_wrappers_do_not_reach_a_line() -> None:
    kind, line = classify(WorkerGroupError("ranks", {0: in_ray(in_ray(DataError("it broke", **SAID)))}))
    assert (kind, line) == ("code", "rank 0: DataError: it broke got: a pipe expected: none fix: call a plumber")
