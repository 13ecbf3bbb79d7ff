"""Groups that talk in every layer and lie on several nodes are told; others are not."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from fakes import make_recipe

from raysft.run.placement import placement_line, torn_groups
from raysft.train.history.records import Records


def recipe(workers: int, **parallel: int) -> Any:
    return make_recipe(cluster={"workers": workers}, parallel={"zero": 0, **parallel})


@pytest.mark.parametrize(
    ("parallel", "hosts", "torn"),
    [
        ({"tensor": 2}, "aabb", []),
        ({"tensor": 2}, "aaab", [[2, 3]]),
        ({"tensor": 4}, "aaab", [[0, 1, 2, 3]]),
        ({"sequence": 2}, "abbb", [[0, 1]]),
        ({"tensor": 2, "sequence": 2}, "aaaabbbb", []),
        ({"tensor": 2, "sequence": 2}, "aabbbbbb", [[0, 1, 2, 3]]),
        ({"pipeline": 2, "tensor": 2}, "aabb", []),  # stages may lie apart: they talk once a micro-batch
        ({"pipeline": 2}, "ab", []),
        ({}, "ab", []),
        ({"tensor": 2}, "a?", []),
    ],
)
def test_groups_on_several_nodes(parallel: dict[str, int], hosts: str, torn: list[list[int]]) -> None:
    assert torn_groups(recipe(len(hosts), **parallel), list(hosts)) == torn


def test_they_are_told_with_ranks_nodes_and_a_way_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = str(tmp_path)
    for rank, host in enumerate(["n1", "n1", "n1", "n2"]):
        monkeypatch.setattr(socket, "gethostname", lambda host=host: host)
        Records(run, 1, rank).flush()
    line = placement_line(run, recipe(4, tensor=2), 1)
    assert line is not None
    assert "1 group(s) of 2 workers" in line
    assert "rank 2 on n1, rank 3 on n2" in line
    assert "parallel.tensor" in line
    assert placement_line(run, recipe(4), 1) is None
    assert placement_line(run, recipe(4, tensor=2), 2) is None, "an attempt that has not begun"
