"""Are two paths, written in different directories at different times, one place? Reads links, changes nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from raysft import storage
from raysft.recipe.fingerprint import FRESH_BASE
from raysft.recipe.measures import full_names
from raysft.recipe.sections.data import DataSection
from raysft.recipe.tune import Distribution


def same_place(before: object, after: object, *, run: str, storage_then: str) -> bool:
    """Does a path of a stored recipe lead where one of today's does? Hub ids and other names: only if equal.

    run: the run's directory today. storage_then: `storage` of the stored recipe. Where that was relative, it tells
    the directory in which the run began; where the whole project was moved, both lie as before beside the run.
    """
    if not isinstance(before, str) or not isinstance(after, str):
        return before == after
    if before == after:
        return True
    if "://" in before or "://" in after or "://" in run:
        return False
    began_in = _began_in(run, storage_then)
    old, new = (os.path.expanduser(path) for path in (before, after))
    if os.path.realpath(os.path.join(began_in, old)) == os.path.realpath(new):
        return True
    run_then = os.path.join(began_in, os.path.expanduser(storage_then), "runs", os.path.basename(run))
    return os.path.isabs(old) and os.path.relpath(old, run_then) == os.path.relpath(os.path.abspath(new), run)


BASE = "the content of model.source"
"""Name of the base's fingerprint among the fields of a search."""


def same_in_search(directory: str, name: str, before: Any, after: Any) -> bool:
    """same_place() for the fields of a search; fields and rules that got a new default since then are the same.

    directory: <storage>/sweeps/<name> of today.
    """
    if name == BASE and None in (before, after):
        # nobody knows: an older study, or weights that are not on this machine; older fresh ones are others
        return FRESH_BASE not in (before, after)
    if name == "metrics":
        return full_names(before) == full_names(after)
    if name.startswith("space."):
        return bool(_today(Distribution, before) == _today(Distribution, after))
    if name.startswith("data."):
        return same_data(name, before, after, run=directory, storage_then="")
    return _same_value(before, after, directory, "")


def same_data(name: str, before: Any, after: Any, *, run: str, storage_then: str) -> bool:
    """same_place() for the fields `data.*`. run, storage_then: as there."""
    before, after = (_today_data(name.removeprefix("data."), value) for value in (before, after))
    return _same_value(before, after, run, storage_then)


def _same_value(before: Any, after: Any, run: str, storage_then: str) -> bool:
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return all(_same_value(a, b, run, storage_then) for a, b in zip(before, after, strict=True))
    if isinstance(before, dict) and isinstance(after, dict) and before.keys() == after.keys():
        return all(_same_value(before[key], after[key], run, storage_then) for key in before)
    return bool(before == after) or same_place(before, after, run=run, storage_then=storage_then)


def _today(kind: Any, value: Any) -> Any:
    """A stored JSON value with the fields that its kind has today."""
    adapter = TypeAdapter[Any](kind)
    try:
        return adapter.dump_python(adapter.validate_python(value), mode="json")
    except ValidationError:
        return value


def _today_data(field: str, value: Any) -> Any:
    try:
        section = DataSection.model_validate({"train": ["x"], field: value})
    except ValidationError:
        return value
    return section.model_dump(mode="json")[field]


def _began_in(run: str, storage_then: str) -> str:
    """The working directory in which the run began, where its relative `storage` tells it; else that of today."""
    root = Path(storage.absolute(run)).parent.parent
    parts = Path(storage_then).parts
    if storage_then and not os.path.isabs(storage_then) and ".." not in parts and root.parts[-len(parts) :] == parts:
        return str(root.parents[len(parts) - 1]) if parts else str(root)
    return os.getcwd()
