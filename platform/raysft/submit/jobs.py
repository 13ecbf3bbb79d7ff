"""What is done with jobs of a Ray cluster: sent, found, stopped, listed."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import raysft
from raysft.errors import PlatformError
from raysft.recipe.schema import Recipe
from raysft.runtime.job_client import STOP_GRACE_S, AwayError, Job, JobServer, UnknownJobError
from raysft.submit.parcel import RECIPE_FILE, RUN, VERB, Verb, check_recipe, job_request, of_run
from raysft.submit.user_code import own_modules

logger = logging.getLogger(__name__)

STOP_POLL_S = 1.0


def submit(
    server: JobServer, recipe: Recipe, verb: Verb, variables: Mapping[str, str], *, debug: bool = False
) -> str:
    """Send a run as a job, under its next number. Returns the job's id.

    variables: environment of the job, as `named_variables` gives it. Raises RecipeError, ConflictError, ClusterError.
    """
    check_recipe(recipe, verb)
    jobs = server.jobs()
    with tempfile.TemporaryDirectory(prefix="raysft-job-") as folder:
        request = job_request(recipe, verb, jobs, variables, Path(folder), debug=debug)
        server.submit(request)
    before = [job for job in of_run(recipe, jobs) if job.metadata.get(VERB) == verb != "doctor"]
    told = ""
    if before:
        last = before[-1]
        is_done = last.status == "SUCCEEDED"
        told = f"; {last.id} had succeeded" if is_done else f"; it goes on where {last.id} ended ({last.status})"
    logger.info("job          %s%s", request.id, told)
    return request.id


def preview(server: JobServer, recipe: Recipe, verb: Verb, variables: Mapping[str, str]) -> list[str]:
    """What `submit` would send, in lines: no value of a variable among them. Raises what `submit` raises."""
    check_recipe(recipe, verb)
    with tempfile.TemporaryDirectory(prefix="raysft-job-") as folder:
        request = job_request(recipe, verb, server.jobs(), variables, Path(folder))
        text = (Path(request.working_dir) / RECIPE_FILE).read_text(encoding="utf-8")
    facts = {
        "job": f"{request.id} to {server.address}",
        "entrypoint": request.entrypoint,
        "package": f"raysft {raysft.__version__}",
        "variables": ", ".join(request.variables) or "none",
        "metadata": ", ".join(f"{name}={value}" for name, value in request.metadata.items()),
        "modules": ", ".join(map(str, own_modules(recipe))) or "none",
        "recipe": RECIPE_FILE,
    }
    return [f"{name:12} {value}" for name, value in facts.items()] + [f"  {line}" for line in text.splitlines()]


def find(server: JobServer, identity: str) -> Job:
    """A job by its id. Raises UnknownJobError, which names those that there are."""
    job = server.job(identity)
    if job is None:
        known = [one.id for one in server.jobs()]
        raise UnknownJobError(
            f"the cluster at {server.address} has no such job",
            got=identity,
            expected=f"one of {', '.join(known[-20:])}" if known else "a job; there is none since its head started",
            fix="`raysft jobs list` shows them",
        )
    return job


def stop(server: JobServer, identity: str) -> Job:
    """End a job after a commit, and wait for its end. Returns it as it ended. Raises ClusterError, PlatformError."""
    job = find(server, identity)
    if job.has_ended:
        return job
    server.stop(identity)
    logger.info("%s is asked to commit and end; it is killed after %d s", identity, STOP_GRACE_S)
    deadline = time.monotonic() + STOP_GRACE_S + 60
    while time.monotonic() < deadline:
        try:
            job = find(server, identity)
        except AwayError as error:
            logger.debug("%s", error)
        if job.has_ended:
            return job
        time.sleep(STOP_POLL_S)
    raise PlatformError(
        f"the job {identity} has not ended",
        got=f"{job.status} {STOP_GRACE_S + 60} s after it was asked to",
        expected="STOPPED",
        fix="see the dashboard; the node that it runs on may be gone",
    )


def lines(jobs: Sequence[Job], now_s: float) -> list[str]:
    """A table of jobs, the oldest first, with what a job waits for or failed of below it. now_s: Unix seconds."""
    if not jobs:
        return ["no jobs since the cluster's head started"]
    rows = [("JOB", "STATUS", "EXIT", "RUN", "VERB", "STARTED (UTC)", "TOOK")]
    rows += [
        (
            job.id,
            job.status,
            "" if job.exit_code is None else str(job.exit_code),
            job.metadata.get(RUN, "-"),
            job.metadata.get(VERB, "-"),
            "" if job.started_s is None else datetime.fromtimestamp(job.started_s, UTC).strftime("%m-%d %H:%M:%S"),
            "" if job.started_s is None else _span((job.ended_s or now_s) - job.started_s),
        )
        for job in jobs
    ]
    head, *table = columns(rows)
    found = [head]
    for line, job in zip(table, jobs, strict=True):
        found.append(line)
        if why := _why(job):
            found.append(f"  {why}")
    return found


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of equal length as lines, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _why(job: Job) -> str:
    """Why it does not run, in one line; empty where it runs, ran, or its own log says it."""
    if job.status == "PENDING" or (job.status == "FAILED" and job.exit_code is None):
        return " ".join(job.message.split())[:300]
    return ""


def _span(seconds: float) -> str:
    minutes, rest = divmod(max(round(seconds), 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
