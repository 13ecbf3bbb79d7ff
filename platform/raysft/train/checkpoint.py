"""Checkpoints: layout, checksums, lineage, the choice at a resume. writer.py makes them. Owns no policy.

    checkpoints/attempt-0002/step-00000040/rank-00000.safetensors   written first, by each rank
    checkpoints/attempt-0002/step-00000040/rank-00000.json          its size and sha256
    checkpoints/attempt-0002/step-00000040/commit.json              written last, created exclusively
    attempts/attempt-0002.json                                      which commit this attempt started from

Tensors are whole fp32 tensors keyed `<kind>:<HF parameter name>`; which rank holds which is of no meaning,
so any number of ranks at any ZeRO stage can load them. Nothing is ever unpickled.

Fence: an attempt record names the commit it starts from, and is created exclusively. Only commits in the
lineage of the newest attempt count, so what a superseded attempt still writes is never loaded.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from safetensors.torch import load as load_safetensors
from torch import Tensor

from raysft import storage
from raysft.errors import CheckpointError
from raysft.train import incidents
from raysft.train.group import Group
from raysft.train.state import TrainState

logger = logging.getLogger(__name__)

LAYOUT_VERSION = 1
_ATTEMPT, _STEP = re.compile(r"attempt-\d+"), re.compile(r"step-\d+")


@dataclass(frozen=True)
class CommitId:
    """Which checkpoint: made by `attempt` after `step` optimizer steps."""

    attempt: int
    step: int


@dataclass(frozen=True)
class Attempt:
    """One start of the worker group, and the commit it started from."""

    number: int
    parent: CommitId | None


def attempt_path(run: str, number: int) -> str:
    """Location of an attempt record."""
    return storage.join(run, "attempts", f"attempt-{number:04d}.json")


def commit_directory(run: str, commit: CommitId) -> str:
    """Directory of a checkpoint's files."""
    return storage.join(run, "checkpoints", f"attempt-{commit.attempt:04d}", f"step-{commit.step:08d}")


def read_attempts(run: str) -> list[Attempt]:
    """All attempts of a run, oldest first."""
    names = [n for n in storage.list_names(storage.join(run, "attempts")) if n.startswith("attempt-")]
    attempts = []
    for name in names:
        record = storage.read_json(storage.join(run, "attempts", name))
        parent = CommitId(**record["parent"]) if record["parent"] else None
        attempts.append(Attempt(number=record["number"], parent=parent))
    return attempts


def read_commits(run: str) -> list[CommitId]:
    """All committed checkpoints, in no order that matters."""
    root = storage.join(run, "checkpoints")
    commits = []
    for attempt_name in filter(_ATTEMPT.fullmatch, storage.list_names(root)):
        for step_name in filter(_STEP.fullmatch, storage.list_names(storage.join(root, attempt_name))):
            commit = CommitId(attempt=int(attempt_name[8:]), step=int(step_name[5:]))
            if storage.exists(storage.join(commit_directory(run, commit), "commit.json")):
                commits.append(commit)
    return commits


def lineage(attempts: list[Attempt], commits: list[CommitId]) -> list[CommitId]:
    """Commits the newest attempt descends from or made, newest first (pure).

    An attempt's commits count only up to the step at which its successor in the lineage branched off.
    """
    by_number = {attempt.number: attempt for attempt in attempts}
    chain: list[CommitId] = []
    current = attempts[-1] if attempts else None
    limit: int | None = None
    while current is not None:
        own = [c for c in commits if c.attempt == current.number and (limit is None or c.step <= limit)]
        chain += sorted(own, key=lambda c: -c.step)
        parent = current.parent
        limit = parent.step if parent else None
        current = by_number.get(parent.attempt) if parent else None
    return chain


def remove_orphans(run: str) -> None:
    """Between attempts: delete saves that were not committed, and commits outside the lineage."""
    chain, root = lineage(read_attempts(run), read_commits(run)), storage.join(run, "checkpoints")
    for attempt in filter(_ATTEMPT.fullmatch, storage.list_names(root)):
        for step in filter(_STEP.fullmatch, storage.list_names(storage.join(root, attempt))):
            if CommitId(int(attempt.rpartition("-")[2]), int(step.rpartition("-")[2])) not in chain:
                storage.remove_tree(storage.join(root, attempt, step))


def copy_newest(source: str, run: str) -> None:
    """Let a run that has not begun go on from the newest commit of another: its first attempt holds a copy."""
    chain = lineage(read_attempts(source), read_commits(source))
    if not chain or read_attempts(run):
        return
    old, new = commit_directory(source, chain[0]), commit_directory(run, CommitId(1, chain[0].step))
    names = [name for name in storage.list_names(old) if name != "commit.json"]
    for name in [*names, "commit.json"]:
        storage.write_bytes(storage.join(new, name), storage.read_bytes(storage.join(old, name)))
    storage.create_exclusive(attempt_path(run, 1), {"number": 1, "parent": None})


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
    number = max((attempt.number for attempt in read_attempts(run)), default=0) + 1
    record = {"number": number, "parent": {"attempt": parent.attempt, "step": parent.step} if parent else None}
    while not storage.create_exclusive(attempt_path(run, number), {**record, "number": number}):
        number += 1
    return number


def find_latest(
    run: str, group: Group, passed_over: list[tuple[CommitId, str]] | None = None, but: Sequence[int] = ()
) -> Checkpoint | None:
    """The newest checkpoint of the lineage whose every file has its checksum. Torn ones are passed over.

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
    return checkpoint, checkpoint.verify(group.rank, group.size)


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint: a mapping of its tensors, read file by file."""

    commit: CommitId
    location: str
    record: Mapping[str, Any]

    @staticmethod
    def open(run: str, commit: CommitId) -> Checkpoint:
        """Read the commit record. Raises CheckpointError when its layout is unknown, OSError and ValueError
        when it is damaged."""
        location = commit_directory(run, commit)
        record = storage.read_json(storage.join(location, "commit.json"))
        if not {"layout_version", "sha256"} <= set(record):
            raise ValueError("it is no commit record")
        if record["layout_version"] != LAYOUT_VERSION:
            raise CheckpointError(
                f"the checkpoint {location} has another layout",
                got=f"version {record['layout_version']}",
                expected=f"version {LAYOUT_VERSION}",
                fix="resume it with the raysft version that wrote it",
            )
        if record["sha256"] != _record_sum(record):
            raise ValueError("it does not have its own checksum")
        return Checkpoint(commit=commit, location=location, record=record)

    @property
    def state(self) -> TrainState:
        """Step and counters at the commit."""
        return TrainState(**self.record["state"])

    @property
    def files(self) -> list[dict[str, Any]]:
        """[{name, bytes, sha256}] of every tensor file."""
        files: list[dict[str, Any]] = self.record["files"]
        return files

    def verify(self, part: int = 0, num_parts: int = 1) -> str | None:
        """Check every num_parts-th file's checksum. None: intact; otherwise what is wrong."""
        for entry in self.files[part::num_parts]:
            try:
                data = storage.read_bytes(storage.join(self.location, entry["name"]))
            except OSError as error:
                return f"{entry['name']} cannot be read ({type(error).__name__})"
            if len(data) != entry["bytes"]:
                return f"{entry['name']} has {len(data)} bytes, its record says {entry['bytes']}"
            if hashlib.sha256(data).hexdigest() != entry["sha256"]:
                return f"{entry['name']} does not have its checksum"
        return None

    def tensors(self) -> dict[str, Tensor]:
        """{`<kind>:<HF name>`: whole fp32 tensor}, and `adam_step`."""
        tensors: dict[str, Tensor] = {}
        for entry in self.files:
            tensors |= load_safetensors(storage.read_bytes(storage.join(self.location, entry["name"])))
        return tensors

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """(HF parameter name, fp32 weight) of each trained parameter."""
        for key, tensor in self.tensors().items():
            kind, _, name = key.partition(":")
            if kind == "weight":
                yield name, tensor


def commit_record(state: TrainState, files: list[dict[str, Any]], facts: Mapping[str, Any]) -> dict[str, Any]:
    """The content of commit.json."""
    record = {"layout_version": LAYOUT_VERSION, "state": state.to_json(), "files": files, "facts": dict(facts)}
    return record | {"sha256": _record_sum(record)}


def _record_sum(record: Mapping[str, Any]) -> str:
    """sha256 of a commit record without its own sum."""
    content = {key: value for key, value in record.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
