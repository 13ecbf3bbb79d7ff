"""SIGKILL at random points of a save: a complete checkpoint is always found. (`make chaos`: 100 points.)"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).with_name("kill_in_save.py")


def test_a_complete_checkpoint_is_always_found(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(PROGRAM), str(tmp_path), "20", "1"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["kills"] == 20
    assert found["steps"] >= 20
    assert len(found["half_done"]) >= 3, "the kills came at different points of a save"
