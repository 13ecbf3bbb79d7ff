"""A cluster that scales from nothing and back: an elastic run that grows on it, a search, what it can never hold.

With Ray's own autoscaler (its second version) and its nodes for tests: real raylets on this machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from programs import told_by

PROGRAM = Path(__file__).with_name("scaled_runs.py")
pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    seen: dict[str, Any] = told_by(PROGRAM, tmp_path_factory.mktemp("scaled"), timeout_s=480)
    return seen


def test_what_the_autoscaler_can_never_bring_is_refused_soon_and_starts_nothing(found: dict[str, Any]) -> None:
    refused = found["refused"]
    assert "can never hold this run, even with all the nodes that its autoscaler may start" in refused["what"]
    assert "expected: 2 workers x (1 CPUs + 0 GPUs)" in refused["what"]
    assert refused["after_s"] < 30
    assert refused["nodes"] == 0


def test_an_elastic_run_begins_on_the_first_node_and_grows_on_the_second(found: dict[str, Any]) -> None:
    nodes = found["nodes"]["grown"]
    assert (nodes[:2], nodes[-1], max(nodes)) == ([0, 1], 0, 2)
    assert found["incidents"] == [["resize", 1]]
    assert found["last"] == 2, "ranks of the last attempt"
    assert found["steps"] == 24


def test_a_search_grows_and_shrinks_with_its_trials(found: dict[str, Any]) -> None:
    assert found["trials"] == ["finished"] * 3
    assert found["nodes"]["tuned"][0] == found["nodes"]["tuned"][-1] == 0
    assert max(found["nodes"]["tuned"]) == 2
    assert "room         for 2 trials at a time when the autoscaler has brought its nodes" in found["said"]


def test_demands_are_given_back_and_what_is_awaited_is_said(found: dict[str, Any]) -> None:
    assert found["demands"] == [0, 0]
    assert found["left"] == []
    assert (
        "waiting up to 10 min for nodes that hold 1 to 2 workers of 1 CPUs + 0 GPUs: the autoscaler was asked for "
        "them" in found["said"]
    )
