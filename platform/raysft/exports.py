"""`run://NAME`: where the parts of a run's export lie. Knows of a run only its directory's layout."""

from __future__ import annotations

from raysft import storage
from raysft.errors import ModelError


def merged_export(root: str, name: str) -> str:
    """A run's merged model. root: the recipe's `storage`. Raises ModelError, which names the runs that have one."""
    return _part(root, name, "merged", "model")


def adapter_export(root: str, name: str) -> str:
    """A run's bare adapter, likewise."""
    return _part(root, name, "adapter", "adapter")


def _part(root: str, name: str, part: str, words: str) -> str:
    runs = storage.join(storage.absolute(root), "runs")
    location = storage.join(runs, name, "export", part)
    if _has_export(runs, name, part):
        return location
    others = [other for other in storage.list_names(runs) if _has_export(runs, other, part)]
    is_adapter_alone = part == "merged" and _has_export(runs, name, "adapter")
    raise ModelError(
        f"the run {name!r} has no exported {words}",
        got="an adapter without its base" if is_adapter_alone else f"nothing at {location}",
        expected=f"a finished run with export.{part}: {', '.join(others[:10])}"
        if others
        else "a run that has finished",
        fix="set export.merged: true in its recipe and run `raysft export`; to go on with an adapter that cannot be "
        f"merged, name its base in model.source, and method.begin_from: run://{name}"
        if is_adapter_alone
        else "check the name and `storage`; train it first, or run `raysft export`",
    )


def _has_export(runs: str, name: str, part: str) -> bool:
    export = storage.join(runs, name, "export")
    return storage.exists(storage.join(export, part)) and storage.exists(storage.join(export, "export.json"))
