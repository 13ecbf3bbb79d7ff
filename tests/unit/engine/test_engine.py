"""What importing the engine brings with it."""

import os
import subprocess
import sys
from pathlib import Path


def test_the_engine_comes_without_mlflow(tmp_path: Path) -> None:
    """DeepSpeed's autotuner would import it; a tracker may still do so afterwards."""
    (tmp_path / "mlflow.py").write_text("print('imported')\n")
    script = """
import sys, raysft.engine
assert "deepspeed" not in sys.modules
import deepspeed
print("engine")
import mlflow
"""
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-2:] == ["engine", "imported"]
    assert done.stdout.count("imported") == 1
