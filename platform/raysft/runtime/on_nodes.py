"""One task on each node of the cluster, whatever its CPUs are used for; what failed is told by its text."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray._raylet import RAY_NODE_ID_KEY
from ray.exceptions import GetTimeoutError

from raysft.data.on_ray import raised_in_task


@dataclass(frozen=True)
class AliveNode:
    """A node as Ray knows it."""

    identity: str
    """In hex."""
    address: str
    resources: Mapping[str, float]


def alive_nodes() -> list[AliveNode]:
    """The head first."""
    found = [
        AliveNode(node["NodeID"], node["NodeManagerAddress"], node["Resources"])
        for node in ray.nodes()
        if node["Alive"]
    ]
    return sorted(found, key=lambda node: ("node:__internal_head__" not in node.resources, node.address))


def on_node(node: AliveNode, function: Callable[..., Any], *arguments: object) -> Any:
    """Begin function(*arguments) there, beside whatever holds the CPUs. Returns Ray's reference of its result."""
    task: Any = ray.remote(function).options(
        num_cpus=0, max_retries=0, label_selector={RAY_NODE_ID_KEY: node.identity}
    )
    return task.remote(*arguments)


def collect(begun: Mapping[str, Any], timeout_s: float) -> tuple[dict[str, Any], dict[str, str]]:
    """({name: result}, {name: why there is none}) of tasks that were begun."""
    results, failures, until = {}, {}, time.monotonic() + timeout_s
    for name, reference in begun.items():
        try:
            results[name] = ray.get(reference, timeout=max(0.0, until - time.monotonic()))
        except Exception as error:  # boundary: whatever a node that is not well makes of a task
            cause = raised_in_task(error)
            lines = str(cause).strip().splitlines() or [""]
            failures[name] = f"{type(cause).__name__}: {lines[-1][:300]}"
            if isinstance(
                error, GetTimeoutError
            ):  # not one that has ended: Ray 2.60 aborts when it is just being taken off
                ray.cancel(reference, force=True)
    return results, failures


def dashboard_url() -> str:
    """host:port of the dashboard; empty: there is none."""
    return str(ray._private.worker.get_dashboard_url() or "")


def has_token() -> bool:
    """Would Ray find a token? https://docs.ray.io/en/latest/ray-security/token-auth.html"""
    stated = os.environ.get("RAY_AUTH_TOKEN_PATH")
    default = Path("~/.ray/auth_token").expanduser()
    return bool(os.environ.get("RAY_AUTH_TOKEN")) or Path(stated or default).is_file()
