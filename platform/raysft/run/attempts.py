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
from raysft.recipe.resolve import fitting_workers, with_workers
from raysft.recipe.schema import Recipe
from raysft.run.failure import AttemptEnd, Kind, Limits, Retry, Stop, decide
from raysft.run.nodes import Growth, await_workers, replace_pod
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
from raysft.train.watch import stop_requests, watchdog
from raysft.train.worker import train_worker
from raysft.train.worker_input import AttemptInput

logger = logging.getLogger(__name__)

LOOK_S = 5.0
"""Between two looks at the cluster while an attempt runs."""

FIRST_LOOK_S = 1.0
"""Before the first: what the attempt before has left behind stands in the way of this one."""

PATIENCE_S = 600.0
"""How long a storage that is away is waited for."""


def run_attempts(run: str, recipe: Recipe, make_input: Callable[[Recipe], AttemptInput]) -> Outcome:
    """Train until the run ends, is given up, or somebody asks it to stop; that is the Outcome.

    recipe: cluster.workers is the most workers. make_input(recipe) is called for each attempt, with the number of
    workers and the micro-batch of that attempt. Raises ClusterError when too few nodes are left for PATIENCE_S.
    """
    history: list[AttemptEnd] = []
    stop_requests.clear(run)
    while True:
        left_out = _left_out(run)
        workers = await_workers(recipe, stopped=partial(_is_asked_to_stop, run), left_out=left_out)
        if not workers:
            return Outcome(status="interrupted", step=_committed(run), reason="stop")
        if workers < recipe.cluster.workers:
            logger.warning("room for %d of %d workers: going on with those", workers, recipe.cluster.workers)
        sized = with_workers(recipe, workers)
        start, num_nodes = _committed(run), len(cluster_facts().nodes)
        with Growth(recipe, workers, left_out) as growth:
            look = partial(_look, run, recipe, sized, partial(_grow, run, newest_attempt(run), growth))
            end = _fit(trainer(run, sized, make_input(sized), train_worker, left_out=left_out), look)
        _await_storage(run)
        if isinstance(end, Outcome) and not _is_gone_on_with(run, end):
            return end
        ended = _ended(run, end, max(0, _committed(run) - start), workers)
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


def _grow(run: str, before: int, growth: Growth) -> None:
    """Ask for the nodes that are missing, once the attempt has begun."""
    if newest_attempt(run) > before:
        growth.ask()


def _look(run: str, recipe: Recipe, sized: Recipe, grow: Callable[[], None] = lambda: None) -> None:
    """Ask the workers to commit and end: now if a node is taken away, at their next commit if there is room."""
    try:
        grow()
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
        room = fitting_workers(recipe, cluster_facts(without=_left_out(run)).nodes) or 0
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


def _is_gone_on_with(run: str, end: Outcome) -> bool:
    """Does another attempt follow an end that the workers agreed on?"""
    if end.status == "failed":
        return _broken(run) is not None  # in a set-up: another node may do
    return end.status in ("interrupted", "rollback") and end.reason != "stop"


def _ended(run: str, end: Outcome | Exception, gained: int, workers: int) -> AttemptEnd:
    """What history keeps of an attempt with so many workers."""
    broken = _broken(run)
    if broken is not None and not (isinstance(end, Outcome) and end.status != "failed"):
        what = f"rank {broken.rank}, after step {broken.step}, on node {broken.node[:12]}: {broken.what}"
        return AttemptEnd("hardware", what, gained, node=broken.node)
    if isinstance(end, Outcome):
        kind: Kind = "rollback" if end.status == "rollback" else "resize" if end.reason == "resize" else "preempted"
        return AttemptEnd(kind, end.reason, gained)
    kind, what = classify(end)
    number = newest_attempt(run)
    stacks = storage.list_names(storage.join(run, "stacks"))
    if kind in ("worker", "code") and any(is_of_attempt(name, number) for name in stacks):
        what = "no progress for cluster.hang_timeout_s, or no first step within cluster.setup_timeout_s"
        late = watchdog.missing_ranks(run, number, workers)
        told = f"{what}; {late}" if late else what
        return AttemptEnd("hung", f"{told}: see {storage.join(run, 'stacks')}", gained)
    records = _newest_failures(run)
    lacked = next((record for record in records if record.out_of_memory), None)
    if lacked is not None and kind in ("code", "worker", "memory"):
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


def _broken(run: str) -> failures.FailureRecord | None:
    """What a rank of the newest attempt says of its node's hardware, if that node is not left out already."""
    left_out = _left_out(run)
    return next((one for one in _newest_failures(run) if one.hardware and one.node not in left_out), None)


def _record(run: str, sized: Recipe, ended: AttemptEnd, decision: Retry | Stop) -> None:
    """Say it, and keep it in the run."""
    attempt = newest_attempt(run)
    logger.warning("attempt %d ended (%s): %s", attempt, ended.kind, ended.what)
    if isinstance(decision, Retry) and decision.after_s:
        logger.warning("no step was committed: the next attempt starts in %.0f s", decision.after_s)
    if ended.node:
        logger.warning("node %s is left out from now on; `raysft doctor` looks at its GPUs", ended.node[:12])
    deleted = replace_pod(ended.node) if ended.node else None
    if isinstance(decision, Retry) and decision.smaller_micro_batch:
        logger.warning("the next attempt has half the rows in a forward pass; the global step stays")
    facts = {
        "gained_steps": ended.gained,
        "committed_step": _committed(run),
        "workers": sized.cluster.workers,
        "decision": type(decision).__name__.lower(),
        "after_s": decision.after_s if isinstance(decision, Retry) else None,
        **({"node": ended.node} if ended.node else {}),
        **({"pod": deleted.pod, "machine": deleted.machine} if deleted else {}),
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


def _left_out(run: str) -> tuple[str, ...]:
    """Nodes whose hardware has failed in this run, by Ray's ids. One that is started again has another id."""
    found = {str(one.facts.get("node", "")) for one in incidents.read_incidents(run) if one.kind == "hardware"}
    return tuple(sorted(found - {""}))


def _committed(run: str) -> int:
    """Step of the newest commit of the lineage; 0 before the first."""
    return max((commit.step for commit in lineage(read_attempts(run), read_commits(run))), default=0)


def _asked_to_stop_within(run: str, seconds: float) -> bool:
    """Wait, but no longer than until somebody asks the run to stop."""
    deadline = time.monotonic() + seconds
    while not _is_asked_to_stop(run):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


def _is_asked_to_stop(run: str) -> bool:
    return stop_requests.pending(run) is stop_requests.Notice.STOP


def as_error(run: str, outcome: Outcome) -> errors.RaysftError:
    """The error that an outcome stands for."""
    if outcome.status == "interrupted":
        return errors.InterruptedRunError(
            f"the run was asked to stop; step {outcome.step} is committed",
            fix="run the same command to go on from there",
        )
    if outcome.error is None:
        return errors.TrainingError(
            f"training stopped after step {outcome.step}: {outcome.reason}",
            got=f"see {storage.join(run, 'metrics')}",
            fix="lower optimizer.learning_rate or look at the data of the last steps; run again to resume",
        )
    return errors.from_fields(outcome.error)
