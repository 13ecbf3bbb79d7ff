"""Two processes in a gloo group, as on two nodes; and one that does not come."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from raysft.doctor import link_probe
from raysft.doctor.examination import free_port

PROGRAM = """
import json, sys
from raysft.doctor.link_probe import measure_link
print(json.dumps(measure_link(int(sys.argv[1]), 2, "127.0.0.1", int(sys.argv[2]))))
"""


def test_two_ranks() -> None:
    port = free_port()
    ranks = [
        subprocess.Popen([sys.executable, "-c", PROGRAM, str(rank), str(port)], stdout=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    told = [json.loads(rank.communicate(timeout=100)[0].splitlines()[-1]) for rank in ranks]
    assert all(one["latency_ms"] > 0 and one["mb_s"] > 1 for one in told)


def test_a_node_that_does_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_probe, "TIMEOUT_S", 0.5)
    with pytest.raises(Exception, match=r"(?i)tim(ed|e)|connect"):
        link_probe.measure_link(1, 2, "127.0.0.1", free_port())
