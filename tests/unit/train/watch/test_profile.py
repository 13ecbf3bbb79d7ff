"""--profile N: a trace of exactly N steps after the warm-up, in Chrome's format."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from fakes import step_info

from raysft.train.hooks import GO_ON
from raysft.train.state import StepInfo
from raysft.train.watch.profile import WARMUP_STEPS, Profile


def trace(run: Path) -> list[str]:
    (path,) = (run / "profile").iterdir()
    assert path.name == "attempt-0003-rank-00000.json"
    return [event.get("name", "") for event in json.loads(path.read_text())["traceEvents"]]


def step(number: int) -> StepInfo:
    with torch.profiler.record_function(f"my-step-{number}"):
        torch.ones(2) + 1
    return step_info(number)


def test_the_trace_holds_the_wanted_steps(tmp_path: Path) -> None:
    hook = Profile(str(tmp_path), attempt=3, steps=2)
    for number in range(1, WARMUP_STEPS + 6):
        assert hook(step(number)) == GO_ON
    hook.close()
    seen = {name for name in trace(tmp_path) if name.startswith("my-step")}
    assert seen == {f"my-step-{WARMUP_STEPS + 1}", f"my-step-{WARMUP_STEPS + 2}"}


def test_a_run_that_ends_early_leaves_what_there_is(tmp_path: Path) -> None:
    hook = Profile(str(tmp_path), attempt=3, steps=9)
    for number in range(1, WARMUP_STEPS + 2):
        hook(step(number))
    hook.close()
    assert f"my-step-{WARMUP_STEPS + 1}" in trace(tmp_path)


def test_a_run_that_ends_in_the_warmup_leaves_nothing(tmp_path: Path) -> None:
    hook = Profile(str(tmp_path), attempt=3, steps=9)
    hook(step(1))
    hook.close()
    assert not (tmp_path / "profile").exists()
