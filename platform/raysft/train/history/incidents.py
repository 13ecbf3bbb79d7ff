"""What went wrong in a run, kept by whoever noticed it: <run>/incidents/incident-0001.json. Decides nothing.

What nobody could write down (a driver that was killed) is found by account.py, from what it left.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from raysft import sealed, storage
from raysft.errors import StorageError
from raysft.train.commits.layout import own_record, run_mathematics

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Incident:
    """One thing that went wrong, or that cost time."""

    kind: str
    """As run/failure.py names the ends of attempts; also `driver`, `interrupted`, and of those that end none
    `skipped`, `transient`, `storage`, `torn`, `straggler`."""
    what: str
    """In one line."""
    attempt: int
    at: float | None = None
    """Unix time on the clock of whoever noticed; None: nobody did."""
    step: int | None = None
    """Optimizer steps that were done then; None: not known."""
    detected_after_s: float | None = None
    """From the last sign of life to the notice; None: not measured."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What else the writer knew."""


_NUMBER_OR_NONE = (int, float, type(None))
_SHAPE: sealed.Shape = {"kind": str, "what": str, "attempt": int, "at": _NUMBER_OR_NONE, "step": (int, type(None))}


def record(
    run: str,
    kind: str,
    what: str,
    *,
    attempt: int,
    step: int | None,
    detected_after_s: float | None,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Keep an incident under a number of its own. A storage that fails loses the incident, with a warning.

    facts: JSON values that stand beside the incident's own fields (what was decided, how many workers).
    """
    incident = {
        "kind": kind,
        "what": what,
        "attempt": attempt,
        "step": step,
        "at": time.time(),
        "mathematics": run_mathematics(run),
    }
    value = {**(facts or {}), **incident, "detected_after_s": detected_after_s}
    root = storage.join(run, "incidents")
    try:
        number = len(storage.list_names(root)) + 1
        while not sealed.create(storage.join(root, f"incident-{number:04d}.json"), value):
            number += 1
    except (StorageError, OSError) as error:
        logger.warning("an incident was not kept (%s): %s", error, what)


def read_incidents(run: str) -> list[Incident]:
    """What was recorded, in the order of its numbers."""
    root = storage.join(run, "incidents")
    records = [
        own_record(run, storage.join(root, name), _SHAPE) for name in sealed.names(root, r"incident-\d{4,}\.json")
    ]
    return [_incident(record) for record in records if record is not None]


def _incident(value: dict[str, Any]) -> Incident:
    value.pop("mathematics", None)
    own = {name: value.pop(name) for name in ("kind", "what", "attempt", "at")}
    return Incident(
        **own, step=value.pop("step", None), detected_after_s=value.pop("detected_after_s", None), facts=value
    )
