"""`cluster:`: what a run asks of the Ray cluster."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import Field, WithJsonSchema, field_validator, model_validator

from raysft.recipe.cleaning import Section

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|(^|_)KEY(_|$)|API_?KEY|ACCESS_KEY", re.IGNORECASE)
_OWNED = re.compile(r"RAY_|DS_ACCELERATOR$|OMP_NUM_THREADS$|TOKENIZERS_PARALLELISM$")
_COUNT = {"type": "integer", "minimum": 1}
_WORKERS = {
    "anyOf": [
        _COUNT,
        {
            "type": "object",
            "required": ["min", "max"],
            "properties": {"min": _COUNT, "max": _COUNT},
            "additionalProperties": False,
        },
    ]
}


class ClusterSection(Section):
    """What the run asks of the Ray cluster."""

    workers: Annotated[int, WithJsonSchema(_WORKERS)] = Field(
        1, ge=1, description="Training workers, one process each. {min: a, max: b}: as many as the alive nodes hold."
    )
    min_workers: int | None = Field(
        None,
        ge=1,
        description="Fewest workers to go on with after a loss of nodes. Default: workers. Set by {min, max}.",
    )
    cpus_per_worker: int = Field(1, ge=1, description="CPUs reserved per worker; also its torch threads.")
    gpus_per_worker: int = Field(0, ge=0, le=1, description="GPUs per worker: 1, or 0 to train on CPU.")
    bind_cpus: bool = Field(
        True,
        description="Keep each GPU worker on CPUs of its GPU's NUMA node, if cpus_per_worker of them may be used.",
    )
    fork_server: bool = Field(
        True,
        description="Fork each node's workers from one process that has imported all: 0.1 s of CPU each, not 5.",
    )
    env: dict[str, str] = Field(
        default_factory=dict,
        description="Environment variables of the workers, such as NCCL_SOCKET_IFNAME. No secrets: Ray shows them.",
    )
    wait_for_nodes_s: float = Field(
        600.0,
        ge=0,
        description="Seconds to wait for nodes that an autoscaler was asked for, or that were lost; 0: not at all.",
    )
    max_failures: int = Field(
        3,
        ge=0,
        description="Failures in a row, with no step committed between them, that are followed by another start.",
    )
    setup_timeout_s: float = Field(
        1800.0,
        gt=0,
        description="Seconds to load weights, restore and try the largest rows; more count as a hang: restart.",
    )
    hang_timeout_s: float = Field(
        600.0, gt=0, description="Seconds without a step, an evaluated batch or a save that count as a hang: restart."
    )

    @field_validator("env")
    @classmethod
    def _may_be_set(cls, env: dict[str, str]) -> dict[str, str]:
        for name in env:
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name of an environment variable")
            if _SECRET.search(name):
                raise ValueError(
                    f"{name} looks like a secret, and Ray shows the environment in its dashboard and logs: "
                    "give it to the nodes when they start"
                )
            if _OWNED.match(name):
                raise ValueError(f"{name} is set by raysft itself (cpus_per_worker, gpus_per_worker)")
        return env

    @model_validator(mode="before")
    @classmethod
    def _range(cls, fields: Any) -> Any:
        """`workers: {min: a, max: b}` is workers b and min_workers a."""
        workers = fields.get("workers") if isinstance(fields, dict) else None
        if isinstance(workers, dict) and workers.keys() == {"min", "max"} and "min_workers" not in fields:
            return {**fields, "workers": workers["max"], "min_workers": workers["min"]}
        return fields
