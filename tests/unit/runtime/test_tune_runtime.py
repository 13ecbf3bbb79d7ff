"""Ray Tune's trials have the runtime environment that they are given, and none of the driver's secrets."""

from __future__ import annotations

import os
from typing import Any

import pytest
from ray.tune.execution import tune_controller

from raysft.runtime.tune_runtime import trials_in

RUNTIME = {"env_vars": {"OMP_NUM_THREADS": "3"}, "py_executable": "made-by-fork"}


class Trainable:
    """Any class of a trial."""


def environment_of(cache: Any) -> dict[str, Any]:
    """What Ray is asked for with an actor of that class."""
    options: dict[str, Any] = cache.get(Trainable)._default_options
    return dict(options["runtime_env"])


@pytest.fixture(autouse=True)
def _secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")


def test_trials_get_the_environment_of_workers_and_no_secret() -> None:
    with trials_in(RUNTIME):
        found = environment_of(tune_controller._ActorClassCache())
    assert found == RUNTIME


def test_tune_prints_and_writes_nothing_unless_the_user_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNE_RESULT_BUFFER_LENGTH", "7")
    monkeypatch.delenv("RAY_AIR_NEW_OUTPUT", raising=False)
    with trials_in(RUNTIME):
        assert (os.environ["TUNE_RESULT_BUFFER_LENGTH"], os.environ["RAY_AIR_NEW_OUTPUT"]) == ("7", "0")


def test_a_class_is_sent_to_the_cluster_once() -> None:
    with trials_in(RUNTIME):
        cache: Any = tune_controller._ActorClassCache()
        assert cache.get(Trainable) is cache.get(Trainable)


def test_outside_it_is_rays_own_which_passes_the_secret_on() -> None:
    """When this fails, Ray has mended it: what tuner.py says of it is to be read again."""
    with pytest.raises(ZeroDivisionError), trials_in(RUNTIME):
        _ = 1 / 0
    assert environment_of(tune_controller._ActorClassCache())["env_vars"]["AWS_SECRET_ACCESS_KEY"] == "hidden"
