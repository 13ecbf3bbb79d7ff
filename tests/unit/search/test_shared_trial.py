"""A trial in the process that Tune gives it: it waits for its host, and imports little."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import ray
from ray import tune
from ray.exceptions import ActorUnavailableError

from raysft.search import shared_trial


class Restarting:
    """A handle of an actor that Ray starts again: it refuses so many calls."""

    def __init__(self, refusals: int) -> None:
        self.refusals, self.asked = refusals, [""]
        self.ready, self.follow = self, self
        self.options = lambda **_: self

    def remote(self, *args: Any) -> Any:
        self.asked.append("follow" if args else "ready")
        return ["a", "b"] if args else ("ready", self)


def test_a_trial_that_comes_back_waits_for_its_host(monkeypatch: pytest.MonkeyPatch) -> None:
    def get(asked: Any, timeout: float | None = None) -> Any:
        if isinstance(asked, str):
            return asked
        assert timeout is not None
        host = asked[1]
        host.refusals -= 1
        if host.refusals >= 0:
            raise ActorUnavailableError("it is started again", None)
        return None

    reports: list[str] = []
    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(tune, "report", lambda report: reports.append(report["message"]))
    host = Restarting(refusals=3)
    shared_trial.shared_trial_function({"host": 0}, [host], [])
    assert reports == ["a", "b"]
    assert host.asked[1:] == [*["ready"] * 4, "follow"]
    monkeypatch.setattr(shared_trial, "START_S", 0.2)
    with pytest.raises(TimeoutError, match="did not start again"):
        shared_trial.shared_trial_function({"host": 0}, [Restarting(refusals=1000)], [])


def test_a_trials_own_process_imports_no_model_library() -> None:
    """Each trial has one beside its host's: with them it would cost 8 CPU-seconds instead of 2."""
    program = "import sys, raysft.search.shared_trial; sys.exit(str({'torch', 'deepspeed'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.stderr.strip() == "set()"
