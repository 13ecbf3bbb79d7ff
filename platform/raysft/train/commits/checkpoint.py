"""Which checkpoint an attempt starts from, and what is left over between attempts. Owns no policy, no layout."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from raysft import sealed, storage
from raysft.errors import CheckpointError
from raysft.train.commits.layout import (
    Checkpoint,
    CommitId,
    attempt_path,
    commit_directory,
    read_commits,
    read_saves,
    run_mathematics,
)
from raysft.train.commits.lineage import Attempt, lineage, next_number, read_attempts, record_of
from raysft.train.group import Group
from raysft.train.history import incidents

logger = logging.getLogger(__name__)


def remove_orphans(run: str) -> None:
    """Between attempts: delete saves that were not committed, and commits outside the lineage."""
    chain = lineage(read_attempts(run), read_commits(run))
    for save in read_saves(run):
        if save not in chain:
            storage.remove_tree(commit_directory(run, save))


def copy_commit(source: str, run: str, step: int) -> None:
    """Let a run that has not begun go on from another's commit of this step: its first attempt holds a copy.

    Raises CheckpointError when there is none that is whole: from elsewhere it would be another run in silence.
    """
    if read_attempts(run):
        return
    chain = [commit for commit in lineage(read_attempts(source), read_commits(source)) if commit.step == step]
    problem: str | None = "it is gone"
    try:
        if chain:
            copied = Checkpoint.open(source, chain[0])
            problem = copied.verify()
    except (OSError, ValueError) as error:
        problem = str(error)
    if problem is not None:
        raise CheckpointError(
            f"the checkpoint of step {step} of {source} cannot be copied",
            got=problem,
            expected="the whole state that another trial goes on from",
            fix="nothing, if the search goes on without it; else give the search another `name`",
        )
    new = commit_directory(run, CommitId(1, step))
    for name in [*(entry["name"] for entry in copied.files), "commit.json"]:
        storage.write_bytes(storage.join(new, name), storage.read_bytes(storage.join(copied.location, name)))
    sealed.create(attempt_path(run, 1), record_of(Attempt(1, None), None) | {"copied": copied.record["sha256"]})


def begin_attempt(run: str, group: Group) -> tuple[Attempt, Checkpoint | None]:
    """Choose the newest intact checkpoint of the lineage and record a new attempt that starts from it.

    Until its record is there, workers that were cut off may commit once more and delete what was chosen: so it looks
    again.
    """
    own: list[int] = []
    is_there = False
    while not is_there:
        passed_over: list[tuple[CommitId, str]] = []
        restored = find_latest(run, group, passed_over, but=own)
        parent = restored.commit if restored else None
        number = group.from_rank_0(_record_attempt(run, parent) if group.rank == 0 else 0)
        own.append(number)
        is_there = group.rank > 0 or parent is None or parent in read_commits(run)
        is_there = bool(group.from_rank_0(int(is_there)))
    for commit, problem in passed_over:
        what = f"the checkpoint of step {commit.step} (attempt {commit.attempt}) was passed over: {problem}"
        incidents.record(run, "torn", what, attempt=number, step=commit.step, detected_after_s=None)
    return Attempt(number=number, parent=parent), restored


def _record_attempt(run: str, parent: CommitId | None) -> int:
    number = next_number(run)
    while not sealed.create(attempt_path(run, number), record_of(Attempt(number, parent), run_mathematics(run))):
        number += 1
    return number


def find_latest(
    run: str, group: Group, passed_over: list[tuple[CommitId, str]] | None = None, but: Sequence[int] = ()
) -> Checkpoint | None:
    """The newest checkpoint of the lineage whose every file has its checksum. Torn ones are passed over.

    The files that a rank has checked are kept in its memory (Checkpoint.kept).

    passed_over gets those and what is wrong with them: a file on the rank that checked it, a record on rank 0. but:
    attempts that do not count.

    Rank 0 lists and names the candidates, all ranks check their share of the files: two ranks that list at
    different moments may see different directories, and must not part ways over it.
    """
    chain: list[CommitId] = []
    if group.rank == 0:
        chain = lineage([attempt for attempt in read_attempts(run) if attempt.number not in but], read_commits(run))
    for i in range(group.from_rank_0(len(chain))):
        named = chain[i] if group.rank == 0 else CommitId(attempt=0, step=0)
        commit = CommitId(group.from_rank_0(named.attempt), group.from_rank_0(named.step))
        checkpoint, problem = _open_and_verify(run, commit, group)
        if problem:
            logger.warning("skipping the checkpoint of step %d: %s", commit.step, problem)
            if passed_over is not None and (checkpoint is not None or group.rank == 0):
                passed_over.append((commit, problem))
        if group.all_true(problem is None):
            return checkpoint
    return None


def _open_and_verify(run: str, commit: CommitId, group: Group) -> tuple[Checkpoint | None, str | None]:
    """(checkpoint, None), or (None or damaged, what is wrong with this rank's share of it)."""
    try:
        checkpoint = Checkpoint.open(run, commit)
    except (OSError, ValueError) as error:
        return None, f"its commit record: {error}"
    return checkpoint, checkpoint.verify(group.rank, group.size, keep=True)
