"""What the driver asks of a running attempt, by what it sees of the cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from fakes import make_recipe
from raysft.errors import ClusterError
from raysft.orchestrate import attempts
from raysft.recipe.facts import ClusterFacts, NodeFacts
from raysft.recipe.resolve import with_workers
from raysft.train import notice
from raysft.train.notice import Notice

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
    assert notice.pending(str(tmp_path)) is asked


def test_what_was_asked_for_stands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    notice.request(str(tmp_path), Notice.STOP)
    monkeypatch.setattr(attempts, "num_draining", lambda: 1)
    attempts._look(str(tmp_path), ELASTIC, ELASTIC)
    assert notice.pending(str(tmp_path)) is Notice.STOP


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
    notice.request(str(tmp_path), Notice.STOP)
    assert attempts._asked_to_stop_within(str(tmp_path), 1000)
