"""Ray Tune's trainable of a trial that trains in a host, with others, and the actor that is a host.

Imports little: each trial has a process of its own for this, which only passes on what the host says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import ray
from ray import tune


class HostActor:
    """A Host (hosts.py). Whoever has a handle of an actor loads its class, so this one knows nothing."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._host = make()

    def follow(self, config: dict[str, Any], metrics: list[str]) -> Iterator[str]:
        """See Host.follow()."""
        yield from self._host.follow(config, metrics)


def hosted_trial(config: dict[str, Any], handles: list[Any], metrics: list[str]) -> None:
    """Raises what Ray raises when the host dies: the trial is lost, and goes on from its checkpoint."""
    host = handles[config["host"]]
    for said in host.follow.options(num_returns="streaming").remote(config, metrics):
        tune.report({"said": ray.get(said)})
