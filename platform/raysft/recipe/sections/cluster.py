"""`cluster:`: what a run asks of the Ray cluster."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, WithJsonSchema, model_validator

from raysft.recipe.cleaning import Section

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
    fork_server: bool = Field(
        True,
        description="Fork each node's workers from one process that has imported all: 0.1 s of CPU each, not 5.",
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

    @model_validator(mode="before")
    @classmethod
    def _range(cls, fields: Any) -> Any:
        """`workers: {min: a, max: b}` is workers b and min_workers a."""
        workers = fields.get("workers") if isinstance(fields, dict) else None
        if isinstance(workers, dict) and workers.keys() == {"min", "max"} and "min_workers" not in fields:
            return {**fields, "workers": workers["max"], "min_workers": workers["min"]}
        return fields
