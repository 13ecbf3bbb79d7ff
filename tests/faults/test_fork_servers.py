"""Several nodes of one machine and several jobs on one cluster: each has workers that Ray knows as its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from programs import told_by

pytestmark = pytest.mark.ray


def test_a_later_job_and_a_dead_node_do_not_meet_in_one_server() -> None:
    """Ray reads the raylet and the job at import: from one server for all, the second job's workers never came."""
    first, second = told_by(Path(__file__).with_name("two_jobs.py"), timeout_s=150)
    dead, head = first["workers"]
    (later,) = second["workers"]
    for worker in (dead, head, later):
        assert worker["made_by"] == "fork_server.py"
    assert dead["node"] != head["node"] == later["node"]
    assert dead["job"] == head["job"] == first["job"] != second["job"] == later["job"]
    assert len({worker["server"] for worker in (dead, head, later)}) == 3
