"""A pipeline with replicas over three nodes trains the curve of one worker."""

from __future__ import annotations

from pathlib import Path

import pytest
from programs import told_by

PROGRAM = Path(__file__).with_name("nodes_pipeline.py")
pytestmark = [pytest.mark.ray, pytest.mark.full]


def test_two_stages_of_two_replicas_on_three_nodes(tmp_path: Path) -> None:
    found = told_by(PROGRAM, tmp_path, timeout_s=500)
    assert sorted(found["workers"]) == [1, 1, 2], "every node had its part of the four workers"
    assert len(found["alone"]) == len(found["stages"]) == 8
    assert max(abs(a - b) / a for a, b in zip(found["alone"], found["stages"], strict=True)) < 1e-5
