"""The hashes of a run, and what differs between two recipes.

data         what the tokens are                          (made by data/prepare/fingerprint.py, passed in)
base         the weights that training begins with        (made by run/base_weights.py, passed in)
mathematics  what the loss curve is, both of these in it: a change refuses resume
execution    how it is carried out: may change on resume (workers, micro-batches, logging, storage)

Fields that have their default are left out of the hashes: a field that raysft gains later, with a default that
changes nothing, leaves the fingerprints of older runs as they are. A field that is taken away, or whose default
changes, leaves its former default in FORMER_DEFAULTS; one whose meaning changes raises VERSION. A field that a
section's kind does not have does not exist; the kind itself is left out only where a recipe need not name it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, TypeAdapter

from raysft.recipe.kinds import KINDS, default_kind, is_of_another_kind, kinds_with
from raysft.recipe.schema import Recipe

VERSION = 2
"""Version of the mathematics. 1: the hash of every field."""

SAME_MATHEMATICS = (1, 2)
"""Versions under which a recipe trains as under VERSION. A run of another one is refused."""

FORMER_DEFAULTS: dict[str, Any] = {}
"""{dotted name: default, as JSON} of fields that the schema had once: a record that names one at it says nothing."""

EXECUTION_FIELDS = (
    "name",
    "storage",
    "model.trust_remote_code",
    "model.attention",
    "train.micro_batch_rows",
    "train.gradient_checkpointing",
    "train.deterministic",
    "train.spike_factor",
    "train.log_every_steps",
    "train.trackers",
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


_FIRST_METHOD: dict[str, Any] = {
    "method.rank": 16,
    "method.alpha": 32.0,
    "method.dropout": 0.0,
    "method.target_modules": ["all-linear"],
}
"""Fields that VERSION 1 hashed whatever the method was, at their defaults."""


_ANY = TypeAdapter[Any](Any)


def digest(value: Any) -> str:
    """sha256 of canonical JSON, 16 hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


FRESH_WEIGHTS = 2
"""Version of the numbers that `model.source: random` makes of a seed. 1: one stream of them for the whole model; 2:
by the parameter's name and the place in it (decision 074)."""
FRESH_BASE = digest({"fresh": FRESH_WEIGHTS})
"""The fingerprint of such a base; the rest of what decides it is in the recipe. Version 1 had none."""


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


def fingerprints(recipe: Recipe, data_fingerprint: str, base: str | None = None) -> dict[str, str]:
    """{data, base, mathematics, execution} -> hash. base None: not known; it is left out."""
    mathematics, execution = map(_without_defaults, split_fields(recipe))
    inputs = {"data": data_fingerprint} | ({"base": base} if base else {})
    return {
        **inputs,
        "mathematics": digest({**mathematics, **inputs, "version": VERSION}),
        "execution": digest(execution),
    }


def first_mathematics(recipe: Recipe, data_fingerprint: str) -> str:
    """The fingerprint of the mathematics as VERSION 1 had it, for runs that have no newer one."""
    leaves = {name: value for name, value in split_fields(recipe)[0].items() if not name.startswith("objective.")}
    return digest({**_FIRST_METHOD, **leaves, "objective": recipe.objective.kind, "data": data_fingerprint})


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], same: Callable[[str, Any, Any], bool] = lambda name, a, b: a == b
) -> list[str]:
    """`field: old -> new` for every leaf that differs. A field that one of them lacks has its default there.

    Of a section that has another kind only the kind is told.

    same(name, old, new): are two values one? A section that is a text is the name of its kind.
    """
    found = []
    old, new = (
        {
            f"{name}.kind" if name in KINDS and isinstance(value, str) else name: value
            for name, value in leaves.items()
        }
        for leaves in (old, new)
    )
    names = {name for leaves in (old, new) for name in leaves if not is_of_another_kind(name, leaves)}
    for name in sorted(names):
        before, after = (leaves[name] if name in leaves else default_of(name, leaves) for leaves in (old, new))
        if any(is_of_another_kind(name, leaves) for leaves in (old, new)):
            continue
        if before != after and not same(name, before, after):
            found.append(f"{name}: {before!r} -> {after!r}")
    return found


def default_of(name: str, leaves: Mapping[str, Any] | None = None) -> Any:
    """The default of a recipe's field by its dotted name, as JSON; the former one, if it had another. None: none.

    leaves: the recipe's own by their names, where a section's kind decides. Else the first kind that has the field.
    """
    if name in FORMER_DEFAULTS:
        return FORMER_DEFAULTS[name]
    if name in KINDS:
        return default_kind(name)
    section: type[BaseModel] = Recipe
    *sections, last = name.split(".")
    if sections and sections[0] in KINDS:
        return _default_of_kind(sections[0], last, (leaves or {}).get(f"{sections[0]}.kind"))
    for key in sections:
        info = section.model_fields.get(key)
        if info is None or not (isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel)):
            return None
        section = info.annotation
    return _default(section, last)


def _default_of_kind(section: str, field: str, kind: str | None) -> Any:
    if field == "kind":
        return default_kind(section)
    kinds = [kind] if kind in kinds_with(section, field) else kinds_with(section, field)
    return _default(KINDS[section][kinds[0]], field) if kinds else None


def _default(section: type[BaseModel], field: str) -> Any:
    info = section.model_fields.get(field)
    if info is None or info.is_required():
        return None
    return _ANY.dump_python(info.get_default(call_default_factory=True), mode="json")


def _without_defaults(leaves: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in leaves.items() if value != default_of(name, leaves)}


def _is_execution(name: str) -> bool:
    return any(name == field or name.startswith(field + ".") for field in EXECUTION_FIELDS)


def _leaves(value: Any, prefix: str) -> list[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        return [leaf for key, child in value.items() for leaf in _leaves(child, f"{prefix}.{key}" if prefix else key)]
    return [(prefix, value)]
