"""Attempt after attempt, until a run ends: each is one `fit()` with a fixed number of workers, from the last commit.

Ray Train itself retries nothing: whether, when, with how many workers and with which micro-batch a run goes on is
decided by failure.py. What ended each attempt is kept in <run>/incidents/.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from raysft import errors, storage
from raysft.recipe.change import change
from raysft.recipe.resolve import check_fits, fitting_workers, with_workers
from raysft.recipe.schema import Recipe
from raysft.run.failure import AttemptEnd, Kind, Limits, Retry, Stop, decide
from raysft.run.ray_failures import classify
from raysft.runtime.join import cluster_facts, free_reservations, num_draining
from raysft.runtime.trainer import ForkedTrainer, trainer
from raysft.train.commits.checkpoint import remove_orphans
from raysft.train.commits.layout import read_commits
from raysft.train.commits.lineage import lineage, newest_attempt, read_attempts
from raysft.train.history import failures, incidents
from raysft.train.history.paths import is_of_attempt
from raysft.train.history.records import attempt_metrics
from raysft.train.state import Outcome
from raysft.train.watch import stop_requests
from raysft.train.worker import train_worker
from raysft.train.worker_input import AttemptInput

logger = logging.getLogger(__name__)

LOOK_S = 5.0
"""Between two looks at the cluster while an attempt runs."""

FIRST_LOOK_S = 1.0
"""Before the first: what the attempt before has left behind stands in the way of this one."""

PATIENCE_S = 600.0
"""How long lost nodes are waited for when too few are left."""


def run_attempts(run: str, recipe: Recipe, make_input: Callable[[Recipe], AttemptInput]) -> Outcome:
    """Train until the run ends, is given up, or somebody asks it to stop; that is the Outcome.

    recipe: cluster.workers is the most workers. make_input(recipe) is called for each attempt, with the number of
    workers and the micro-batch of that attempt. Raises ClusterError when too few nodes are left for PATIENCE_S.
    """
    history: list[AttemptEnd] = []
    stop_requests.clear(run)
    while True:
        sized = with_workers(recipe, _await_workers(recipe))
        start, num_nodes = _committed(run), len(cluster_facts().nodes)
        end = _fit(trainer(run, sized, make_input(sized), train_worker), partial(_look, run, recipe, sized))
        _await_storage(run)
        if isinstance(end, Outcome) and (end.status not in ("interrupted", "rollback") or end.reason == "stop"):
            return end
        ended = _ended(run, end, max(0, _committed(run) - start))
        if ended.kind in ("worker", "controller") and len(cluster_facts().nodes) < num_nodes:
            ended = replace(ended, kind="node")  # Ray itself finds out later
        history.append(ended)
        may_halve = recipe.parallel.auto_micro_batch and recipe.train.micro_batch_rows > 1
        decision = decide(history, Limits(recipe.cluster.max_failures, may_halve))
        _record(run, sized, ended, decision)
        if isinstance(decision, Stop):
            return _given_up(run, ended, decision)
        if decision.smaller_micro_batch:
            recipe = change(recipe, {"train.micro_batch_rows": recipe.train.micro_batch_rows // 2})
        if _asked_to_stop_within(run, decision.after_s):
            return Outcome(status="interrupted", step=_committed(run), reason="stop")
        stop_requests.clear(run)
        remove_orphans(run)


def _fit(trainer: ForkedTrainer, look: Callable[[], None]) -> Outcome | Exception:
    """fit(), in a thread: this one stays free for signals, and calls look() now and then."""
    ends: list[Outcome | Exception] = []

    def work() -> None:
        try:
            result: Any = trainer.fit()  # annotated by Ray as its v1 Result, which has no return_value
            ends.append(Outcome(**result.return_value))
        except Exception as error:  # process boundary: becomes a decision
            ends.append(error)

    thread = threading.Thread(target=work, name="fit", daemon=True)
    thread.start()
    next_look = time.monotonic() + min(FIRST_LOOK_S, LOOK_S)
    while thread.is_alive():
        thread.join(0.1)
        if time.monotonic() > next_look:
            free_reservations()  # of the attempt before: its controller ends after its fit()
            look()
            next_look = time.monotonic() + LOOK_S
    return ends[0]


def _look(run: str, recipe: Recipe, sized: Recipe) -> None:
    """Ask the workers to commit and end: now if a node is taken away, at their next commit if there is room."""
    try:
        _ask(run, recipe, sized)
    except (OSError, errors.StorageError) as error:
        logger.warning("storage is away; the workers go on: %s", " ".join(str(error).split())[:200])


def _ask(run: str, recipe: Recipe, sized: Recipe) -> None:
    if stop_requests.pending(run) is not stop_requests.Notice.NONE:
        return
    if num_draining():
        logger.warning("a node is about to be taken away: the workers commit their state and end")
        stop_requests.request(run, stop_requests.Notice.PREEMPTED)
    elif sized.cluster.workers < recipe.cluster.workers:
        room = fitting_workers(recipe, cluster_facts().nodes) or 0
        if room > sized.cluster.workers:
            logger.info("room for %d workers: the %d end at their next commit", room, sized.cluster.workers)
            stop_requests.request(run, stop_requests.Notice.RESIZE)


def _await_storage(run: str) -> None:
    """Return when storage answers; after PATIENCE_S its OSError is raised."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            storage.list_names(run)
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise
            logger.warning("waiting for storage: %s", " ".join(str(error).split())[:200])
            time.sleep(2)


def _await_workers(recipe: Recipe) -> int:
    """How many workers the alive nodes hold, when that is enough. Raises ClusterError after PATIENCE_S."""
    deadline, told = time.monotonic() + PATIENCE_S, False
    while (workers := fitting_workers(recipe, cluster_facts().nodes)) is None:
        least = with_workers(recipe, recipe.cluster.min_workers or recipe.cluster.workers)
        if time.monotonic() > deadline:
            check_fits(least, cluster_facts().nodes)
        elif not told:
            needed, patience = least.cluster.workers, PATIENCE_S / 60
            logger.warning("waiting up to %.0f min for nodes that hold %d workers", patience, needed)
            told = True
        time.sleep(1)
    if workers < recipe.cluster.workers:
        logger.warning("room for %d of %d workers: going on with those", workers, recipe.cluster.workers)
    return workers


def _ended(run: str, end: Outcome | Exception, gained: int) -> AttemptEnd:
    """What history keeps of an attempt."""
    if isinstance(end, Outcome):
        kind: Kind = "rollback" if end.status == "rollback" else "resize" if end.reason == "resize" else "preempted"
        return AttemptEnd(kind, end.reason, gained)
    kind, what = classify(end)
    number = newest_attempt(run)
    stacks = storage.list_names(storage.join(run, "stacks"))
    if kind in ("worker", "code") and any(is_of_attempt(name, number) for name in stacks):
        return AttemptEnd(
            "hung",
            "no progress for cluster.hang_timeout_s, or no first step within cluster.setup_timeout_s: "
            f"see {storage.join(run, 'stacks')}",
            gained,
        )
    records = _newest_failures(run)
    lacked = next((record for record in records if record.out_of_memory), None)
    if lacked is not None and kind in ("code", "worker"):
        return AttemptEnd("memory", f"rank {lacked.rank}, after step {lacked.step}: {lacked.what}", gained)
    is_certain = any(record.certain for record in records)  # the other ranks then only lost their peer
    if not records or not (kind == "code" or (kind == "worker" and is_certain)):
        return AttemptEnd(kind, what, gained)
    first = records[0]
    if first.kind == errors.StorageError.__name__:
        return AttemptEnd("no_storage", first.what, gained)
    where = f"{first.kind}: {first.what}, rank {first.rank}, after step {first.step}"
    return AttemptEnd("code", first.what, gained, error=where, certain=is_certain)


def _newest_failures(run: str) -> Sequence[failures.FailureRecord]:
    """Records of the newest attempt, certain ones first."""
    number = newest_attempt(run)
    own = [record for record in failures.read_failures(run) if record.attempt == number]
    return sorted(own, key=lambda record: (not record.certain, record.rank))


def _record(run: str, sized: Recipe, ended: AttemptEnd, decision: Retry | Stop) -> None:
    """Say it, and keep it in the run."""
    attempt = newest_attempt(run)
    logger.warning("attempt %d ended (%s): %s", attempt, ended.kind, ended.what)
    if isinstance(decision, Retry) and decision.after_s:
        logger.warning("no step was committed: the next attempt starts in %.0f s", decision.after_s)
    if isinstance(decision, Retry) and decision.smaller_micro_batch:
        logger.warning("the next attempt has half the rows in a forward pass; the global step stays")
    facts = {
        "gained_steps": ended.gained,
        "committed_step": _committed(run),
        "workers": sized.cluster.workers,
        "decision": type(decision).__name__.lower(),
        "after_s": decision.after_s if isinstance(decision, Retry) else None,
    }
    reached, at = _reached(run, attempt)
    since = None if at is None else max(0.0, time.time() - at)
    incidents.record(run, ended.kind, ended.what, attempt=attempt, step=reached, detected_after_s=since, facts=facts)


def _reached(run: str, attempt: int) -> tuple[int | None, float | None]:
    """(steps done, Unix time) by the last line of an attempt's metrics; workers write a line at every step."""
    steps = [line for line in attempt_metrics(run, attempt) if line["kind"] == "step"]
    return (steps[-1]["step"], steps[-1]["at"]) if steps else (None, None)


def _given_up(run: str, ended: AttemptEnd, decision: Stop) -> Outcome:
    records = _newest_failures(run)
    if ended.kind in ("code", "no_storage") and records:
        return failures.as_outcome(records[0])
    error = errors.TrainingError(
        "training was given up: its workers failed too often",
        got=decision.reason,
        expected="a committed step between failures (cluster.max_failures says how many may follow each other)",
        fix=decision.fix,
    )
    fields = errors.to_fields(error)
    return Outcome(status="failed", step=_committed(run), reason=decision.reason, error=fields)


def _committed(run: str) -> int:
    """Step of the newest commit of the lineage; 0 before the first."""
    return max((commit.step for commit in lineage(read_attempts(run), read_commits(run))), default=0)


def _asked_to_stop_within(run: str, seconds: float) -> bool:
    """Wait, but no longer than until somebody asks the run to stop."""
    deadline = time.monotonic() + seconds
    while stop_requests.pending(run) is not stop_requests.Notice.STOP:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True
