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
from raysft.train.checkpoint import read_commits


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


def has_same_data_fields(run: str, recipe: Recipe) -> bool:
    """Does run.json name the same training data in the same words?"""
    return not _data_differences(storage.read_json(storage.join(run, "run.json")), recipe)


def check_data(run: str, recipe: Recipe, data_fingerprint: str) -> None:
    """Refuse other training data than the run's. Raises ConflictError."""
    stored = storage.read_json(storage.join(run, "run.json"))
    tokens = differences({"tokens": stored["fingerprints"]["data"]}, {"tokens": data_fingerprint})
    if tokens:
        _refuse(
            run, _data_differences(stored, recipe) or ["the contents of data.train, the tokenizer or its template"]
        )


def claim(run: str, recipe: Recipe, data_fingerprint: str) -> dict[str, str]:
    """Create run.json, or check it when it is there. Returns the three fingerprints. Raises ConflictError."""
    mathematics = split_fields(recipe)[0]
    prints = fingerprints(recipe, data_fingerprint)
    record = {"recipe": recipe.model_dump(mode="json"), "mathematics": mathematics, "fingerprints": prints}
    location = storage.join(run, "run.json")
    if not storage.create_exclusive(location, record):
        check_recipe(run, recipe)
        check_data(run, recipe, data_fingerprint)
    return prints


def _data_differences(stored: dict[str, Any], recipe: Recipe) -> list[str]:
    """The fields that say what is trained on; held-out files and packing are told apart elsewhere."""
    old, new = dict(stored["recipe"]["data"]), recipe.model_dump(mode="json")["data"]
    found = differences({**old, "eval": None}, {**new, "eval": None})
    return [f"data.{line}" for line in found]


def _refuse(run: str, differ: list[str]) -> None:
    if differ:
        raise ConflictError(
            f"the run {run} exists with another recipe",
            got="; ".join(differ),
            expected="the same mathematics: workers, micro-batches and logging may change, these may not",
            fix="give this run another `name`, or delete that directory"
            + ("" if read_commits(run) else " (it holds no checkpoint yet)"),
        )
