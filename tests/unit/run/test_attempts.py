"""What the driver asks of a running attempt, by what it sees of the cluster."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fakes import make_recipe
from ray.train.v2.api.exceptions import WorkerGroupError

from raysft.errors import ClusterError, DataError, StorageError
from raysft.recipe.facts import ClusterFacts, NodeFacts
from raysft.recipe.resolve import with_workers
from raysft.run import attempts
from raysft.run.failure import Limits, Retry, decide
from raysft.train.history.failures import describe_failure, write_failure
from raysft.train.watch import stop_requests
from raysft.train.watch.stop_requests import Notice

ELASTIC = make_recipe(cluster={"workers": {"min": 1, "max": 4}})


@pytest.mark.parametrize(
    ("cpus", "draining", "workers", "asked"),
    [
        ([2], 0, 2, Notice.NONE),
        ([2, 1], 0, 2, Notice.RESIZE),
        ([2, 9], 0, 4, Notice.NONE),  # as many as are wanted
        ([], 0, 2, Notice.NONE),
        ([2, 1], 1, 2, Notice.PREEMPTED),
        ([2], 1, 4, Notice.PREEMPTED),
    ],
)
def test_notices(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cpus: list[int], draining: int, workers: int, asked: Notice
) -> None:
    nodes = ClusterFacts(tuple(NodeFacts(cpus=n, gpus=0) for n in cpus))
    monkeypatch.setattr(attempts, "cluster_facts", lambda: nodes)
    monkeypatch.setattr(attempts, "num_draining", lambda: draining)
    attempts._look(str(tmp_path), ELASTIC, with_workers(ELASTIC, workers))
    assert stop_requests.pending(str(tmp_path)) is asked


def test_what_was_asked_for_stands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stop_requests.request(str(tmp_path), Notice.STOP)
    monkeypatch.setattr(attempts, "num_draining", lambda: 1)
    attempts._look(str(tmp_path), ELASTIC, ELASTIC)
    assert stop_requests.pending(str(tmp_path)) is Notice.STOP


def test_storage_that_is_away_does_not_end_the_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    looks = iter([True, True, False])

    def away(location: str) -> list[str]:
        if next(looks):
            raise OSError("AWS Error NETWORK_CONNECTION")
        return []

    monkeypatch.setattr(attempts.storage, "list_names", away)
    monkeypatch.setattr(attempts.time, "sleep", lambda seconds: None)
    attempts._look(str(tmp_path), ELASTIC, ELASTIC)
    attempts._await_storage(str(tmp_path))
    monkeypatch.setattr(attempts, "PATIENCE_S", -1.0)
    looks = iter([True])
    with pytest.raises(OSError, match="NETWORK"):
        attempts._await_storage(str(tmp_path))


def test_a_save_that_failed_too_long_is_no_error_of_the_code(tmp_path: Path) -> None:
    error = StorageError("cannot write s3://x", got="HTTP 500", expected="", fix="")
    record = describe_failure(error, attempt=0, rank=1, step=4, certain=False)
    write_failure(str(tmp_path), record)
    ended = attempts._ended(str(tmp_path), ValueError("as Ray tells it"), 0)
    assert ended.kind == "controller", "Ray's own words decide what ended it"
    told = WorkerGroupError("a rank", {1: RuntimeError("as Ray tells it")})
    assert attempts._ended(str(tmp_path), told, 0).kind == "no_storage"


def test_an_error_that_raysft_names_explains_the_peers_that_were_lost(tmp_path: Path) -> None:
    """Rank 1 refuses the data; rank 0 sees a closed connection, and only that has come to Ray."""
    lost = RuntimeError("Connection closed by peer [127.0.0.1]:4711")
    ends = WorkerGroupError("ranks", {0: lost})
    write_failure(str(tmp_path), describe_failure(lost, attempt=0, rank=0, step=4, certain=False))
    assert attempts._ended(str(tmp_path), ends, 0).kind == "worker"
    error = DataError("the files have changed", got="x", expected="y", fix="z")
    write_failure(str(tmp_path), describe_failure(error, attempt=0, rank=1, step=4, certain=False))
    ended = attempts._ended(str(tmp_path), ends, 0)
    assert (ended.kind, ended.what, ended.certain) == ("code", "the files have changed", True)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), MemoryError()]
)
def test_an_allocation_that_fails_in_mid_run_is_a_lack_of_memory(tmp_path: Path, error: Exception) -> None:
    """Rank 1 runs out; rank 0 sees a closed connection. Fewer rows in a pass may do: no error of the code."""
    lost = RuntimeError("Connection closed by peer [127.0.0.1]:4711")
    for rank, found in ((0, lost), (1, error)):
        write_failure(str(tmp_path), describe_failure(found, attempt=0, rank=rank, step=4, certain=False))
    for ends in (WorkerGroupError("ranks", {0: lost}), WorkerGroupError("ranks", {1: error})):
        ended = attempts._ended(str(tmp_path), ends, 3)
        assert ended.kind == "memory"
        assert "rank 1, after step 4" in ended.what
    assert decide([ended], Limits(3, may_halve=True)) == Retry(smaller_micro_batch=True)


def test_too_few_nodes_are_waited_for_and_then_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([[0], [0], [3]])
    monkeypatch.setattr(
        attempts, "cluster_facts", lambda: ClusterFacts(tuple(NodeFacts(cpus=n, gpus=0) for n in next(looks)))
    )
    monkeypatch.setattr(attempts.time, "sleep", lambda seconds: None)
    assert attempts._await_workers(ELASTIC) == 3
    monkeypatch.setattr(attempts, "PATIENCE_S", -1.0)
    monkeypatch.setattr(attempts, "cluster_facts", lambda: ClusterFacts((NodeFacts(cpus=0, gpus=0),)))
    with pytest.raises(ClusterError, match="never hold"):
        attempts._await_workers(ELASTIC)


def test_a_wait_ends_when_somebody_asks_the_run_to_stop(tmp_path: Path) -> None:
    assert not attempts._asked_to_stop_within(str(tmp_path), 0)
    stop_requests.request(str(tmp_path), Notice.STOP)
    assert attempts._asked_to_stop_within(str(tmp_path), 1000)
