"""A search on three nodes: trials spread over them; a dead node costs its trial only what it had not committed."""

from __future__ import annotations

from pathlib import Path

import pytest
from programs import told_by

PROGRAM = Path(__file__).with_name("tune_nodes.py")
TRIALS, STEPS, EVERY = 7, 240, 20
pytestmark = [pytest.mark.ray, pytest.mark.full]


def test_a_node_dies_inside_a_trial(tmp_path: Path) -> None:
    found = told_by(PROGRAM, tmp_path, timeout_s=700)
    assert found["trials"] == [[number, "finished"] for number in range(TRIALS)]
    assert min(found["per_node"]) >= 1, "every node had trials"
    disturbed = [attempts for attempts in found["attempts"].values() if len(attempts) > 1]
    assert len(disturbed) == 1, "the node had one trial"
    (start, before), (again, after) = disturbed[0]
    assert (start, after) == (0, list(range(again + 1, STEPS + 1)))
    assert 0 < again <= before[-1]
    assert again % EVERY == 0
    assert not found["passed_over"]
    calm = [attempts for attempts in found["attempts"].values() if len(attempts) == 1]
    assert all(attempts == [[0, list(range(1, STEPS + 1))]] for attempts in calm)
