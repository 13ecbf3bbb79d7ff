"""What is sent of a run: its recipe, this raysft, variables by name; and the id that it gets."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import yaml

import raysft
from raysft.errors import ConflictError, UserError
from raysft.recipe.schema import Recipe
from raysft.recipe.travel import refuse_relative, refuse_secrets
from raysft.recipe.tune_checks import check_tune
from raysft.runtime.job_client import Job, JobRequest
from raysft.submit.user_code import copy_modules, own_modules

Verb = Literal["train", "prepare", "tune", "doctor"]
RECIPE_FILE = "recipe.yaml"
RUN, VERB, STORAGE, VERSION = "raysft.run", "raysft.verb", "raysft.storage", "raysft.version"
"""Names in a job's metadata."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OWNED = re.compile(r"RAY_(AUTH_.*|ADDRESS|API_SERVER_ADDRESS|JOB_.*)$|PYTHONPATH$")


def check_recipe(recipe: Recipe, verb: Verb) -> None:
    """Refuse what would mean something else on the cluster, nothing, or give a secret away. Raises RecipeError."""
    if verb == "tune":
        check_tune(recipe)
    refuse_relative(
        recipe, "s3://, gs:// or hub names, or absolute paths that every node sees (a shared file system)"
    )
    refuse_secrets(recipe)


def named_variables(names: Sequence[str], environment: Mapping[str, str]) -> dict[str, str]:
    """{name: value} of the variables that a user lists, and of no other. Raises UserError."""
    for name in names:
        if "=" in name or not _NAME.fullmatch(name):
            raise _bad_variable(
                name.partition("=")[0] + ("=..." if "=" in name else ""),
                "a name alone: a value on a command line is read by others",
                f"set it in this shell, then --env {name.partition('=')[0]}",
            )
        if _OWNED.match(name):
            raise _bad_variable(name, "a variable of yours: Ray sets this one for each job", "leave it out")
        if name not in environment:
            raise _bad_variable(
                f"{name}, which is not set", "a variable of this shell", f"export {name}=..., or leave it out"
            )
    return {name: environment[name] for name in names}


def _bad_variable(got: str, expected: str, fix: str) -> UserError:
    return UserError("this variable cannot be passed on", got=got, expected=expected, fix=fix)


def job_request(
    recipe: Recipe,
    verb: Verb,
    jobs: Sequence[Job],
    variables: Mapping[str, str],
    folder: Path,
    *,
    debug: bool = False,
) -> JobRequest:
    """The job of a run, under its next number. Puts what travels into `folder`, an empty directory.

    jobs: those that the cluster has. Raises ConflictError where one of this run has not ended.
    """
    check_free(recipe, jobs)
    text = yaml.safe_dump(recipe.model_dump(mode="json", exclude_unset=True), sort_keys=False, allow_unicode=True)
    work, package = folder / "job", folder / "raysft"
    work.mkdir()
    (work / RECIPE_FILE).write_text(text, encoding="utf-8")
    copy_modules(own_modules(recipe), work)
    # without what Python compiled, which would make it another package each time, and thrice the size
    shutil.copytree(Path(raysft.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    return JobRequest(
        id=next_id(recipe.name, verb, jobs),
        # `exec`: a stop reaches raysft, not a shell that dies and leaves it
        entrypoint=f"exec python -m raysft.cli {verb} {RECIPE_FILE}{' --debug' if debug else ''}",
        working_dir=str(work),
        package=str(package),
        variables=variables,
        metadata={RUN: recipe.name, VERB: verb, STORAGE: recipe.storage, VERSION: raysft.__version__},
    )


def next_id(name: str, verb: Verb, jobs: Sequence[Job]) -> str:
    """`NAME-2`, of another verb than train `NAME-prepare-2`: one more than the highest that was used."""
    stem = name if verb == "train" else f"{name}-{verb}"
    numbers = [int(found[1]) for job in jobs if (found := re.fullmatch(rf"{re.escape(stem)}-(\d{{1,9}})", job.id))]
    return f"{stem}-{max(numbers, default=0) + 1}"


def check_free(recipe: Recipe, jobs: Sequence[Job]) -> None:
    """Raises ConflictError where a job of this run, by name and storage, goes on."""
    alive = [job for job in of_run(recipe, jobs) if not job.has_ended]
    if alive:
        raise ConflictError(
            f"the run {recipe.name} has a job on this cluster that goes on",
            got=", ".join(f"{job.id} ({job.status})" for job in alive),
            expected="one job at a time for each run",
            fix=f"`raysft jobs attach {alive[-1].id}` follows it, `raysft jobs stop {alive[-1].id}` ends it after a "
            "commit; or give the recipe another name",
        )


def of_run(recipe: Recipe, jobs: Sequence[Job]) -> list[Job]:
    """The jobs of this run, in the order in which they were sent."""
    return [
        job for job in jobs if job.metadata.get(RUN) == recipe.name and job.metadata.get(STORAGE) == recipe.storage
    ]
