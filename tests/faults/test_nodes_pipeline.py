"""A pipeline with replicas over three nodes trains the curve of one worker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("nodes_pipeline.py")
pytestmark = [pytest.mark.ray, pytest.mark.full]


def test_two_stages_of_two_replicas_on_three_nodes(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    environment["PYTHONPATH"] = os.pathsep.join([str(PROGRAM.parents[1]), *sys.path])
    command = [sys.executable, str(PROGRAM), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert sorted(found["workers"]) == [1, 1, 2], "every node had its part of the four workers"
    assert len(found["alone"]) == len(found["stages"]) == 8
    assert max(abs(a - b) / a for a, b in zip(found["alone"], found["stages"], strict=True)) < 1e-5
