"""Are two paths, written in different directories at different times, one place? Reads links, changes nothing."""

from __future__ import annotations

import os
from pathlib import Path

from raysft import storage


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


def _began_in(run: str, storage_then: str) -> str:
    """The working directory in which the run began, where its relative `storage` tells it; else that of today."""
    root = Path(storage.absolute(run)).parent.parent
    parts = Path(storage_then).parts
    if storage_then and not os.path.isabs(storage_then) and ".." not in parts and root.parts[-len(parts) :] == parts:
        return str(root.parents[len(parts) - 1]) if parts else str(root)
    return os.getcwd()
