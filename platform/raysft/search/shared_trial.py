"""Ray Tune's trainable of a trial that trains in a host, with others, and the actor that is a host.

Imports little: each trial has a process of its own for this, which only passes on what the host says.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import ray
from ray import tune
from ray.exceptions import ActorUnavailableError

START_S = 600.0
"""How long a host that died may take to run again: a node may have to come for it."""


class HostActor:
    """A Host (shared_host.py). Whoever has a handle of an actor loads its class, so this one knows nothing."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._host = make()

    def ready(self) -> None:
        """Answers when the host can be asked."""

    def begin(self, config: dict[str, Any]) -> None:
        """See Host.begin()."""
        self._host.begin(config)

    def follow(self, config: dict[str, Any], metrics: list[str]) -> Iterator[str]:
        """See Host.follow()."""
        yield from self._host.follow(config, metrics)


def shared_trial_function(config: dict[str, Any], handles: list[Any], metrics: list[str]) -> None:
    """Raises what Ray raises when the host dies: the trial is lost, and goes on from its checkpoint."""
    host = handles[config["host"]]
    _await(host)
    for message in host.follow.options(num_returns="streaming").remote(config, metrics):
        tune.report({"message": ray.get(message)})


def _await(host: Any) -> None:
    """Ray refuses calls of an actor that it starts again: a trial that came back at once would be lost once more."""
    until = time.monotonic() + START_S
    while (left := until - time.monotonic()) > 0:
        try:
            ray.get(host.ready.remote(), timeout=left)
            return
        except ActorUnavailableError:
            time.sleep(0.1)
    raise TimeoutError(f"the host of this trial did not start again within {START_S:.0f} s")
