"""What tasks on the cluster import, and that they make of a tokenizer what the driver has."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "module",
    [
        "raysft.data.prepare.tasks",
        "raysft.data.feed.stream",
        "raysft.data.report.survey_task",
        "raysft.data.rules.near_duplicates",
    ],
)
def test_a_task_on_the_cluster_imports_no_model_library(module: str) -> None:
    """Each process of a prepare would take 3 s and 300 MB for it, on every node."""
    code = f"import sys, {module}; print([name for name in ('torch', 'transformers') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"
