"""The run directory: who a run is, whether it may go on under a recipe, how it ended.

run.json       the recipe, its mathematics and three fingerprints; created once
result.json    written when the run is whole: trained, exported, evaluated, reported
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from raysft import sealed, storage
from raysft.data.store.same_rows import have_same_rows
from raysft.errors import CheckpointError, ConflictError, RecipeError
from raysft.recipe.fingerprint import (
    FRESH_WEIGHTS,
    SAME_MATHEMATICS,
    VERSION,
    differences,
    fingerprints,
    first_mathematics,
    split_fields,
)
from raysft.recipe.kinds import without_other_kinds
from raysft.recipe.load import parse_recipe
from raysft.recipe.objective_traits import live_columns, reference_columns
from raysft.recipe.paths import with_absolute_paths
from raysft.recipe.schema import Recipe
from raysft.recipe.secrets import hidden
from raysft.recipe.traits import method_of
from raysft.run.base_weights import base_fingerprint
from raysft.run.locations import same_data, same_place
from raysft.train.commits.layout import Checkpoint, is_copy, read_commits
from raysft.train.history.paths import RunPaths

logger = logging.getLogger(__name__)

_RUN: sealed.Shape = {"recipe": dict, "mathematics": dict, "fingerprints": dict}
_RESULT: sealed.Shape = {
    "steps": int,
    "before": (dict, type(None)),
    "after": (dict, type(None)),
    "exports": list,
    "report": str,
    "finished_at": str,
}


def run_location(recipe: Recipe) -> str:
    """`<storage>/runs/<name>`, absolute."""
    return storage.join(storage.absolute(recipe.storage), "runs", recipe.name)


def recipe_of(run: str) -> Recipe | None:
    """The recipe that a run's directory was made with; None: it is no run's, or of another version, which is told."""
    record = _read_run(run) if storage.exists(RunPaths(run).record) else None
    if record is None:
        return None
    try:
        return parse_recipe(without_other_kinds(record["recipe"]))
    except RecipeError as error:
        logger.warning("%s is of another version of raysft: %s", RunPaths(run).record, error.what)
        return None


def fingerprints_of(run: str) -> dict[str, str] | None:
    """The fingerprints of a run by its own record; None: it is absent or damaged."""
    record = _read_run(run)
    return dict(record["fingerprints"]) if record else None


def read_result(run: str) -> dict[str, Any] | None:
    """What a finished run left; None while it is not finished, or when the record is lost: it is finished anew."""
    location = RunPaths(run).result
    result, record = sealed.read(location, _RESULT), _read_run(run)
    if result is None:
        return None
    expected = record["fingerprints"].get("mathematics") if record else None
    if result.get("mathematics", expected) != expected or Path(result["report"]).parent.name != Path(run).name:
        logger.warning("%s is passed over: it is the result of another run", location)
        return None
    return result


def write_result(run: str, result: dict[str, Any], fingerprints: Mapping[str, str]) -> None:
    """Mark the run as finished."""
    sealed.write(RunPaths(run).result, {**result, "mathematics": fingerprints["mathematics"]})


def check_same_recipe(run: str, recipe: Recipe) -> None:
    """Refuse a recipe that would train something else than the run of this name did, or on another base.

    Raises ConflictError.
    """
    record = _read_run(run)
    if record is not None:
        _refuse(run, _differing(run, record, recipe))
        _check_base(run, record, recipe, base_fingerprint(recipe))


def check_base(run: str, recipe: Recipe) -> None:
    """Refuse a base that was replaced since the run began: between two attempts, too. Raises ConflictError."""
    record = _read_run(run)
    if record is not None:
        _check_base(run, record, recipe, base_fingerprint(recipe))


def check_fresh(run: str, recipe: Recipe, *, untrained: bool = False) -> None:
    """Refuse a run whose fresh weights this version cannot make, where they are needed: frozen ones, those that the
    objective compares with; untrained: all. Raises ConflictError."""
    record = _read_run(run)
    if record is not None:
        _check_fresh(run, record, recipe, untrained=untrained)


def _check_fresh(run: str, record: Mapping[str, Any], recipe: Recipe, *, untrained: bool = False) -> None:
    is_needed = untrained or method_of(recipe).base != "trained" or bool(reference_columns(recipe))
    if recipe.model.source != "random" or "base" in record["fingerprints"] or not is_needed:
        return
    raise ConflictError(
        f"the run {run} stands on fresh weights that this version of raysft does not make",
        got="weights of version 1: one stream of numbers for the whole model",
        expected=f"version {FRESH_WEIGHTS}: numbers by seed, parameter and place, which are others",
        fix="use the raysft version that it began with, or train it anew under another `name`",
    )


def _check_base(run: str, record: Mapping[str, Any], recipe: Recipe, base: str | None) -> None:
    _check_fresh(run, record, recipe)
    before = record["fingerprints"].get("base")
    if base is None or before in (None, base):  # not known: an older run, or weights that are not on this machine
        return
    source, made_anew = recipe.model.source, "other files lie there"
    if source == "random":
        made_anew = "another version of raysft makes other weights of a seed"
    elif source.startswith("run://"):
        made_anew = "the export of that run was made anew"
    teachers = " or of a teacher" if live_columns(recipe) else ""
    _refuse(run, [f"the content of model.source ({source}){teachers}: {before} -> {base}, {made_anew}"])


def has_same_data_fields(run: str, recipe: Recipe) -> bool:
    """Does run.json name the same training data?"""
    record = _read_run(run)
    return record is not None and not _data_differences(run, record, recipe)


def check_data(run: str, recipe: Recipe, data_fingerprint: str) -> None:
    """Refuse other training data than the run's. Raises ConflictError.

    A store whose parts hold the same rows is the same, whatever fingerprint it had in an earlier version.
    """
    record = _read_run(run)
    if record is None or record["fingerprints"]["data"] == data_fingerprint:
        return
    tokens = storage.join(storage.absolute(recipe.storage), "tokens")
    began = str(record["fingerprints"]["data"])
    if have_same_rows(storage.join(tokens, began), storage.join(tokens, data_fingerprint)):
        logger.info("data         the rows of %s, with which the run began, are these rows", began[:16])
        return
    named = _data_differences(run, record, recipe)
    other = "the contents of data.train, the tokenizer or its template, or how this raysft reads them"
    _refuse(run, named or [other], "" if named else "finish it with the raysft version that it began with, or ")


def claim(run: str, recipe: Recipe, data_fingerprint: str) -> dict[str, str]:
    """Create run.json, or check it when it is there. Returns the run's fingerprints: that of its mathematics is the
    one that it began with. Raises ConflictError.
    """
    base, location = base_fingerprint(recipe), RunPaths(run).record
    prints = fingerprints(recipe, data_fingerprint, base)
    record = {
        "version": VERSION,
        "recipe": hidden(recipe.model_dump(mode="json")),
        "mathematics": hidden(split_fields(recipe)[0]),
        "fingerprints": prints,
    }
    stored = _read_run(run)
    if stored is None:
        prints = record["fingerprints"] = prints | _of_commits(run, recipe, prints)
        if sealed.create(location, record):
            return prints
        stored = _read_run(run)
    if stored is None:  # damaged: all that it says is in the recipe, which made the checkpoints
        sealed.write(location, record)
        return prints
    _refuse(run, _differing(run, stored, recipe))
    _check_base(run, stored, recipe, base)
    check_data(run, recipe, data_fingerprint)
    known: dict[str, str] = stored["fingerprints"]
    is_older = recipe.model.source == "random" and "base" not in known  # than fresh weights that have a fingerprint
    inputs = {name: prints[name] for name in ("data", "base") if name in prints and not (is_older and name == "base")}
    if known | inputs != known:  # what an earlier version did not know, or named otherwise
        sealed.write(location, {**stored, "fingerprints": known | inputs})
    return {**prints, "mathematics": known["mathematics"]}


def _of_commits(run: str, recipe: Recipe, prints: Mapping[str, str]) -> dict[str, str]:
    """{mathematics: fingerprint} of the checkpoints of a run that has lost its run.json. Raises ConflictError when
    none of them is of this recipe."""
    own = {prints["mathematics"]}
    earlier = {
        fingerprints(recipe, prints["data"])["mathematics"],  # of a run whose base nobody knew
        first_mathematics(recipe, prints["data"]),
        first_mathematics(with_absolute_paths(recipe), prints["data"]),
    }
    found = []
    for commit in sorted(read_commits(run), key=lambda commit: (-commit.attempt, -commit.step)):
        with suppress(OSError, ValueError, CheckpointError):
            record = Checkpoint.open(run, commit).record
            if not is_copy(run, record, commit):
                found.append(str(record["facts"].get("fingerprints", {}).get("mathematics")))
    for mathematics in found:
        if mathematics in earlier:
            _check_fresh(run, {"fingerprints": {}}, recipe)
        if mathematics in own | earlier:
            logger.warning("%s/run.json is lost; the checkpoints are of this recipe: it is written anew", run)
            return {"mathematics": mathematics}
    if found:
        raise ConflictError(
            f"{run} has lost its run.json, and its checkpoints are of another recipe",
            got=f"checkpoints of the mathematics {found[0]}",
            expected=f"{prints['mathematics']}, that of this recipe and its data",
            fix="use the recipe that the run began with, or another `name`",
        )
    return {}


def _read_run(run: str) -> dict[str, Any] | None:
    """run.json; None when it is absent or damaged."""
    record = sealed.read(RunPaths(run).record, _RUN)
    if record is None or not {"data", "mathematics"} <= record["fingerprints"].keys():
        return None
    return record if isinstance(record["recipe"].get("data"), dict) else None


def _differing(run: str, record: Mapping[str, Any], recipe: Recipe) -> list[str]:
    """What of the mathematics differs, by the fields as they are today; paths that lead to one place do not."""
    try:
        old = split_fields(parse_recipe(without_other_kinds(record["recipe"])))[0]
    except RecipeError:  # written when the schema had other fields
        old = record["mathematics"]
    began_in = str(record["recipe"].get("storage", ""))
    version = record.get("version", VERSION)

    def same(name: str, before: Any, after: Any) -> bool:
        is_path = name in ("model.source", "model.tokenizer")
        return is_path and same_place(before, after, run=run, storage_then=began_in)

    found = differences(old, hidden(split_fields(recipe)[0]), same)
    if version not in SAME_MATHEMATICS:
        found.append(f"version of the mathematics: {version} -> {VERSION}, which computes other numbers")
    return found


def _data_differences(run: str, record: Mapping[str, Any], recipe: Recipe) -> list[str]:
    """The fields that say what is trained on; held-out files and packing are told apart elsewhere."""
    old, new = record["recipe"]["data"], hidden(recipe.model_dump(mode="json")["data"])
    before, after = ({f"data.{name}": value for name, value in data.items()} for data in (old, new))
    same = partial(same_data, run=run, storage_then=str(record["recipe"].get("storage", "")))
    return differences({**before, "data.eval": None}, {**after, "data.eval": None}, same)


def _refuse(run: str, differ: list[str], fix: str = "") -> None:
    if differ:
        raise ConflictError(
            f"the run {run} exists with another recipe",
            got="; ".join(differ),
            expected="the same mathematics: workers, micro-batches and logging may change, these may not",
            fix=f"{fix}give this run another `name`, or delete that directory"
            + ("" if read_commits(run) else " (it holds no checkpoint yet)"),
        )
