"""The GPU kit runs without a GPU: time on one is not spent on a typing error."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

KIT = Path(__file__).parents[1] / "gpu" / "run.py"


def figures(folder: Path, *steps: str) -> dict[str, dict[str, object]]:
    """{step: what it found} of a run of the kit that must end well."""
    command = [sys.executable, str(KIT), "--out", str(folder), "--device", "cpu", "--tiny", "--only", ",".join(steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    lines = [json.loads(line) for line in (folder / "gpu.jsonl").read_text().splitlines()]
    return {line["step"]: line for line in lines}


def test_it_measures_and_goes_on_from_a_save(tmp_path: Path) -> None:
    found = figures(tmp_path, "head", "saves")
    assert found["head"]["ok"]
    assert found["saves"]["losses"][0] == found["saves"]["losses"][1]  # type: ignore[index]
    assert {"fresh", "kept", "resume"} <= set(found["saves"])


def test_a_step_without_budget_is_left_out(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(KIT),
        "--out",
        str(tmp_path),
        "--device",
        "cpu",
        "--only",
        "facts",
        "--budget",
        "1",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "left out: no budget left" in done.stdout


@pytest.mark.full
def test_the_whole_kit(tmp_path: Path) -> None:
    found = figures(
        tmp_path,
        "facts",
        "fork_server",
        "attention",
        "parity",
        "isolation",
        "spread_out",
        "memory",
        "speed",
        "waits",
        "whole",
    )
    assert found["whole"]["resumed_from"] == [None, {"attempt": 1, "step": 20}]
    assert not found["parity"]["wrong"]
    assert not found["waits"]["wrong"]
