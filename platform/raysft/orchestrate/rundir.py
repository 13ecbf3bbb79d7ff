"""The run directory: who a run is, whether it may go on under a recipe, how it ended.

run.json       the recipe, its mathematics and three fingerprints; created once
result.json    written when the run is whole: trained, exported, evaluated, reported
"""

from __future__ import annotations

from typing import Any

from raysft import storage
from raysft.errors import ConflictError
from raysft.recipe.fingerprint import differences, fingerprints, split_fields
from raysft.recipe.schema import Recipe


def run_location(recipe: Recipe) -> str:
    """`<storage>/runs/<name>`, absolute."""
    return storage.join(storage.absolute(recipe.storage), "runs", recipe.name)


def read_result(run: str) -> dict[str, Any] | None:
    """What a finished run left; None while it is not finished."""
    location = storage.join(run, "result.json")
    return storage.read_json(location) if storage.exists(location) else None


def write_result(run: str, result: dict[str, Any]) -> None:
    """Mark the run as finished."""
    storage.write_json(storage.join(run, "result.json"), result)


def check_recipe(run: str, recipe: Recipe) -> None:
    """Refuse a recipe that would train something else than the run of this name did. Raises ConflictError."""
    location = storage.join(run, "run.json")
    if storage.exists(location):
        _refuse(run, differences(storage.read_json(location)["mathematics"], split_fields(recipe)[0]))


def claim(run: str, recipe: Recipe, data_fingerprint: str) -> dict[str, str]:
    """Create run.json, or check it when it is there. Returns the three fingerprints. Raises ConflictError."""
    mathematics = split_fields(recipe)[0]
    prints = fingerprints(recipe, data_fingerprint)
    record = {"recipe": recipe.model_dump(mode="json"), "mathematics": mathematics, "fingerprints": prints}
    location = storage.join(run, "run.json")
    if not storage.create_exclusive(location, record):
        stored = storage.read_json(location)
        differ = differences(stored["mathematics"], mathematics)
        differ += differences({"tokens": stored["fingerprints"]["data"]}, {"tokens": data_fingerprint})
        _refuse(run, differ)
    return prints


def _refuse(run: str, differ: list[str]) -> None:
    if differ:
        raise ConflictError(
            f"the run {run} exists with another recipe",
            got="; ".join(differ),
            expected="the same mathematics: workers, micro-batches and logging may change, these may not",
            fix="give this run another `name`, or delete that directory",
        )
