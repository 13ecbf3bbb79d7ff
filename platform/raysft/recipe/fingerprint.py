"""Three hashes of a run.

data         what the tokens are                          (made by data/prepare.py, passed in)
mathematics  what the loss curve is: a change refuses resume
execution    how it is carried out: may change on resume (workers, micro-batches, logging, storage)
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from raysft.recipe.schema import Recipe

EXECUTION_FIELDS = (
    "name",
    "storage",
    "model.trust_remote_code",
    "model.attention",
    "train.micro_batch_rows",
    "train.gradient_checkpointing",
    "train.spike_factor",
    "parallel",
    "cluster",
    "checkpoint",
    "evaluate",
    "export",
    "tune",
)
"""Fields that do not change the mathematics of a run. Packing is mathematics: with it off, rounding differs."""


_ROW_FIELDS = ("data.packing", "data.order")
"""Fields of the data that change the steps and not the tokens."""


def digest(value: Any) -> str:
    """sha256 of canonical JSON, 16 hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def split_fields(recipe: Recipe) -> tuple[dict[str, Any], dict[str, Any]]:
    """(mathematics, execution): the recipe's leaf fields by dotted name, in two halves.

    `data.*` fields that only say where and how tokens are made are replaced by the data fingerprint.
    """
    leaves = dict(_leaves(recipe.model_dump(mode="json"), ""))
    execution = {name: value for name, value in leaves.items() if _is_execution(name)}
    mathematics = {
        name: value
        for name, value in leaves.items()
        if name not in execution and (not name.startswith("data.") or name in _ROW_FIELDS)
    }
    return mathematics, execution


def fingerprints(recipe: Recipe, data_fingerprint: str) -> dict[str, str]:
    """{data, mathematics, execution} -> hash."""
    mathematics, execution = split_fields(recipe)
    return {
        "data": data_fingerprint,
        "mathematics": digest({**mathematics, "data": data_fingerprint}),
        "execution": digest(execution),
    }


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """`field: old -> new` for every leaf that differs."""
    names = sorted(old.keys() | new.keys())
    return [f"{name}: {old.get(name)!r} -> {new.get(name)!r}" for name in names if old.get(name) != new.get(name)]


def _is_execution(name: str) -> bool:
    return any(name == field or name.startswith(field + ".") for field in EXECUTION_FIELDS)


def _leaves(value: Any, prefix: str) -> list[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        return [leaf for key, child in value.items() for leaf in _leaves(child, f"{prefix}.{key}" if prefix else key)]
    return [(prefix, value)]
