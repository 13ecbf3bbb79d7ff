"""What the driver asks of a running attempt, by what it sees of the cluster."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from attempts import begin
from fakes import make_recipe
from ray.train.v2.api.exceptions import WorkerGroupError

from raysft.errors import DataError, StorageError
from raysft.recipe.facts import ClusterFacts, NodeFacts
from raysft.recipe.resolve import with_workers
from raysft.run import attempts
from raysft.run.failure import Limits, Retry, decide
from raysft.runtime.demand import not_on
from raysft.train.history.failures import describe_failure, is_of_hardware, write_failure
from raysft.train.history.incidents import record
from raysft.train.state import Outcome
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
    monkeypatch.setattr(attempts, "cluster_facts", lambda without=(): nodes)
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
    ended = attempts._ended(str(tmp_path), ValueError("as Ray tells it"), 0, workers=2)
    assert ended.kind == "controller", "Ray's own words decide what ended it"
    told = WorkerGroupError("a rank", {1: RuntimeError("as Ray tells it")})
    assert attempts._ended(str(tmp_path), told, 0, workers=2).kind == "no_storage"


def test_an_error_that_raysft_names_explains_the_peers_that_were_lost(tmp_path: Path) -> None:
    """Rank 1 refuses the data; rank 0 sees a closed connection, and only that has come to Ray."""
    lost = RuntimeError("Connection closed by peer [127.0.0.1]:4711")
    ends = WorkerGroupError("ranks", {0: lost})
    write_failure(str(tmp_path), describe_failure(lost, attempt=0, rank=0, step=4, certain=False))
    assert attempts._ended(str(tmp_path), ends, 0, workers=2).kind == "worker"
    error = DataError("the files have changed", got="x", expected="y", fix="z")
    write_failure(str(tmp_path), describe_failure(error, attempt=0, rank=1, step=4, certain=False))
    ended = attempts._ended(str(tmp_path), ends, 0, workers=2)
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
        ended = attempts._ended(str(tmp_path), ends, 3, workers=2)
        assert ended.kind == "memory"
        assert "rank 1, after step 4" in ended.what
    assert decide([ended], Limits(3, may_halve=True)) == Retry(smaller_micro_batch=True)


def test_a_wait_ends_when_somebody_asks_the_run_to_stop(tmp_path: Path) -> None:
    assert not attempts._asked_to_stop_within(str(tmp_path), 0)
    stop_requests.request(str(tmp_path), Notice.STOP)
    assert attempts._asked_to_stop_within(str(tmp_path), 1000)


def test_more_nodes_are_asked_for_when_the_attempt_has_begun(tmp_path: Path) -> None:
    asked: list[bool] = []

    class Asked:
        def ask(self) -> None:
            asked.append(True)

    attempts._grow(str(tmp_path), 0, Asked())  # type: ignore[arg-type]
    assert asked == []
    begin(str(tmp_path), 1, None)
    attempts._grow(str(tmp_path), 0, Asked())  # type: ignore[arg-type]
    assert asked == [True]


BROKEN = [
    "CUDA error: uncorrectable ECC error encountered\nCUDA kernel errors might be asynchronously reported",
    "CUDA error: uncorrectable NVLink error detected during the execution",
    "CUDA error: CUDA-capable device(s) is/are busy or unavailable",
    "CUDA error: all CUDA-capable devices are busy or unavailable",
    "Unable to determine the device handle for GPU 0000:3B:00.0: GPU is lost. Reboot the system to recover this GPU",
    "GPU has fallen off the bus",
]


@pytest.mark.parametrize("text", BROKEN)
def test_broken_hardware_names_its_node_and_is_tried_elsewhere(tmp_path: Path, text: str) -> None:
    """Rank 1's GPU is broken; rank 0 has lost its peer, as NCCL says it."""
    lost = RuntimeError("NCCL error ... ncclRemoteError: A call failed possibly due to ... remote process exited")
    for rank, error, node in ((0, lost, "aa" * 28), (1, RuntimeError(text), "bb" * 28)):
        record = describe_failure(error, attempt=0, rank=rank, step=4, certain=True, node=node)
        write_failure(str(tmp_path), record)
    for end in (WorkerGroupError("ranks", {0: lost}), Outcome(status="failed", step=0, reason="set-up")):
        ended = attempts._ended(str(tmp_path), end, 0, workers=2)
        assert (ended.kind, ended.node, ended.certain) == ("hardware", "bb" * 28, False)
        assert "rank 1, after step 4, on node bbbbbbbbbbbb: RuntimeError" in ended.what
    assert attempts._is_gone_on_with(str(tmp_path), Outcome(status="failed", step=0, reason="set-up"))
    assert decide([ended], Limits(3, may_halve=True)) == Retry()


@pytest.mark.parametrize(
    "text", ["CUDA error: an illegal memory access was encountered", "CUDA error: unspecified launch failure"]
)
def test_what_the_code_may_have_done_is_no_hardware(tmp_path: Path, text: str) -> None:
    record = describe_failure(RuntimeError(text), attempt=0, rank=0, step=4, certain=False, node="aa")
    assert not record.hardware
    write_failure(str(tmp_path), record)
    assert (
        attempts._ended(str(tmp_path), WorkerGroupError("a rank", {0: RuntimeError(text)}), 0, workers=2).kind
        == "code"
    )
    assert not attempts._is_gone_on_with(str(tmp_path), Outcome(status="failed", step=0, reason="set-up"))


def test_a_rank_that_lost_its_peer_is_no_broken_one() -> None:
    assert not is_of_hardware(RuntimeError("ncclRemoteError: A call failed possibly due to a network error"))


def test_nodes_stay_out_for_the_life_of_a_run(tmp_path: Path) -> None:
    assert attempts._left_out(str(tmp_path)) == ()
    for kind, facts in (("hardware", {"node": "bb"}), ("worker", {}), ("hardware", {"node": "aa"}), ("hardware", {})):
        record(str(tmp_path), kind, "told", attempt=1, step=1, detected_after_s=None, facts=facts)
    assert attempts._left_out(str(tmp_path)) == ("aa", "bb")
    assert not_on(("aa", "bb")) == {"ray.io/node-id": "!in(aa, bb)"}
    assert not_on(()) == {}


def test_a_start_that_fails_after_a_broken_node_is_not_told_as_hardware_again(tmp_path: Path) -> None:
    error = RuntimeError(BROKEN[0])
    write_failure(str(tmp_path), describe_failure(error, attempt=0, rank=0, step=4, certain=False, node="bb"))
    assert attempts._ended(str(tmp_path), ValueError("as Ray tells it"), 0, workers=2).kind == "hardware"
    record(str(tmp_path), "hardware", "told", attempt=0, step=4, detected_after_s=None, facts={"node": "bb"})
    assert attempts._ended(str(tmp_path), ValueError("as Ray tells it"), 0, workers=2).kind == "controller"
