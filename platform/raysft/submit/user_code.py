"""The user's own modules that a recipe names (`map` rules): which of them lie on this machine only, and so travel."""

from __future__ import annotations

import importlib.util
import shutil
import sysconfig
from pathlib import Path

from raysft.recipe.cleaning import Map
from raysft.recipe.schema import Recipe


def own_modules(recipe: Recipe) -> list[Path]:
    """Files and packages of the top-level modules that the recipe's functions are in, of those that nobody installed.

    A module that Python does not find here may be in the cluster's image: it is left to that.
    """
    functions = [rule.function for rule in recipe.data.rules if isinstance(rule, Map)]
    tops = dict.fromkeys(function.partition(":")[0].partition(".")[0] for function in functions)
    found = [place for top in tops if top != "raysft" and (place := _place(top)) is not None]
    return [place for place in found if not _is_installed(place)]


def copy_modules(places: list[Path], folder: Path) -> None:
    """Put them into a folder, without what Python compiled."""
    for place in places:
        if place.is_dir():
            shutil.copytree(place, folder / place.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(place, folder)


def _place(top: str) -> Path | None:
    """Where a top-level module is, without importing it; None: nowhere, or not in a file."""
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    return Path(spec.origin) if spec.has_location and spec.origin else None


def _is_installed(place: Path) -> bool:
    """Whether it belongs to Python, or was installed as packages are: the image is to have it, as all the others."""
    paths = sysconfig.get_paths()
    return any(place.is_relative_to(paths[name]) for name in ("purelib", "platlib", "stdlib", "platstdlib"))
