"""What Ray Tune starts for its trials: processes made as workers are, with their runtime environment.

Ray Tune 2.60 makes that environment itself and takes no other. Its own would have each trial import for 2 s of CPU,
and holds the driver's AWS keys, which Ray shows in its dashboard.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import ray
from ray.tune.execution import tune_controller

HEAD_NODE_RESOURCES: dict[str, float] = {"CPU": 0, "node:__internal_head__": 0.0001}
"""Tune refuses a trial that reserves nothing, and one that holds CPUs while its workers wait for some deadlocks. At
the head node a trial outlives every node of its workers."""

TUNE_VARIABLES = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no files of its own for each trial
    "TUNE_RESULT_BUFFER_LENGTH": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # a signal is ours
    "RAY_AIR_NEW_OUTPUT": "0",  # which prints whatever `verbose` says
}
"""Environment of the driver, where it does not say otherwise itself."""


class _Trainables:
    """What Ray Tune asks for the actor of a trainable class: its _ActorClassCache."""

    def __init__(self, runtime: dict[str, Any]) -> None:
        self._runtime = runtime
        self._actors: dict[type, Any] = {}

    def get(self, trainable: type) -> Any:
        """The actor class; always the same, for each is sent to the cluster once."""
        if trainable not in self._actors:
            self._actors[trainable] = ray.remote(runtime_env=self._runtime)(trainable)
        return self._actors[trainable]


@contextmanager
def trials_in(runtime: dict[str, Any]) -> Iterator[None]:
    """Inside, Ray Tune starts trials in this runtime environment of Ray. Sets TUNE_VARIABLES, for good."""
    for variable, value in TUNE_VARIABLES.items():
        os.environ.setdefault(variable, value)
    controller: Any = tune_controller
    own = controller._ActorClassCache
    controller._ActorClassCache = partial(_Trainables, runtime)
    try:
        yield
    finally:
        controller._ActorClassCache = own
