"""Ray Tune's trainable of a trial that trains in a host, with others. Imports little: each trial has a process of its
own for this, which only passes on what the host says."""

from __future__ import annotations

from typing import Any

import ray
from ray import tune


def hosted_trial(config: dict[str, Any], handles: list[Any], metrics: list[str]) -> None:
    """Raises what Ray raises when the host dies: the trial is lost, and goes on from its checkpoint."""
    host = handles[config["host"]]
    for said in host.follow.options(num_returns="streaming").remote(config, metrics):
        tune.report({"said": ray.get(said)})
