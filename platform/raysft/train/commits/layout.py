"""Commits: layout of a checkpoint's files, its record and checksums, which run it belongs to. writer.py makes them.

    checkpoints/attempt-0002/step-00000040/rank-00000.safetensors   written first, by each rank
    checkpoints/attempt-0002/step-00000040/rank-00000.json          its size and sha256
    checkpoints/attempt-0002/step-00000040/commit.json              written last, created exclusively

Tensors are fp32 and keyed `<kind>:<HF parameter name>`. Each rank writes the slices that it holds (saved.py); which
rank that was is of no meaning, so any number of ranks in any layout can load them. Nothing is ever unpickled.

A commit belongs to its place: its record holds its own checksum, its step, its attempt and the mathematics of its
run (run.json), and names files in its own directory only. Links are no commits.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from raysft import sealed, storage
from raysft.errors import CheckpointError
from raysft.train.commits.saved import SavedState
from raysft.train.history.paths import ATTEMPT, STEP, RunPaths, attempt_number, step_number
from raysft.train.state import TrainState

LAYOUT_VERSION = 2
_READABLE = (1, LAYOUT_VERSION)
"""Version 1 had whole tensors only."""
_FILE: sealed.Shape = {"name": str, "bytes": int, "sha256": str}
_STATE: sealed.Shape = {
    "step": int,
    "skipped_steps": int,
    "tokens": int,
    "target_tokens": sealed.NUMBER,
    "cursor": dict,
}
_LATER: sealed.Shape = {"untrained": dict, "ended": str}
"""What states have since there is a rule that ends a run early."""


@dataclass(frozen=True)
class CommitId:
    """Which checkpoint: made by `attempt` after `step` optimizer steps."""

    attempt: int
    step: int


def attempt_path(run: str, number: int) -> str:
    """Location of an attempt record (lineage.py)."""
    return RunPaths(run).attempt(number)


def commit_directory(run: str, commit: CommitId) -> str:
    """Directory of a checkpoint's files."""
    return RunPaths(run).save(commit.attempt, commit.step)


def read_saves(run: str) -> list[CommitId]:
    """Every directory of a checkpoint, committed or not, in no order that matters."""
    root = RunPaths(run).room("checkpoints")
    found = []
    for attempt_name in _directories(root, ATTEMPT):
        for step_name in _directories(storage.join(root, attempt_name), STEP):
            found.append(CommitId(attempt=attempt_number(attempt_name), step=step_number(step_name)))
    return [save for save in found if save.attempt]


def read_commits(run: str) -> list[CommitId]:
    """All committed checkpoints, in no order that matters."""
    saves = read_saves(run)
    return [save for save in saves if storage.exists(storage.join(commit_directory(run, save), "commit.json"))]


def _directories(root: str, pattern: str) -> list[str]:
    """Names that match, without links: what they lead to has a place of its own."""
    return [name for name in sealed.names(root, pattern) if not storage.is_link(storage.join(root, name))]


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint: its record, and the way to its tensors."""

    commit: CommitId
    location: str
    record: Mapping[str, Any]
    kept: dict[str, bytearray] = field(default_factory=dict, compare=False, repr=False)
    """{name of a file: its bytes}: read for its checksum, and soon to be restored from."""

    @staticmethod
    def open(run: str, commit: CommitId) -> Checkpoint:
        """Read the commit record. Raises CheckpointError when its layout is unknown, OSError and ValueError
        when it is damaged or of another run, attempt or step."""
        location = commit_directory(run, commit)
        record = storage.read_json(storage.join(location, "commit.json"))
        if not isinstance(record, dict) or not {"layout_version", "sha256"} <= record.keys():
            raise ValueError("it is no commit record")
        if record["sha256"] != sealed.checksum(record):
            raise ValueError("it does not have its own checksum")
        if record["layout_version"] not in _READABLE:
            raise CheckpointError(
                f"the checkpoint {location} has another layout",
                got=f"version {record['layout_version']}",
                expected=f"version {' or '.join(map(str, _READABLE))}",
                fix="resume it with the raysft version that wrote it",
            )
        problem = _misfit(record, commit) or _stranger(run, record, commit)
        if problem:
            raise ValueError(problem)
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

    def verify(self, part: int = 0, num_parts: int = 1, *, keep: bool = False) -> str | None:
        """Check every num_parts-th file's checksum. None: intact; otherwise what is wrong.

        keep: hold the files in memory, for saved(): the rank that wrote a file and goes on in the same layout needs
        that file and no other.
        """
        for entry in self.files[part::num_parts]:
            kept = bytearray(entry["bytes"] if keep else 0)
            size, digest = 0, hashlib.sha256()
            try:
                for block in storage.read_blocks(storage.join(self.location, entry["name"])):
                    digest.update(block)
                    if keep and size + len(block) <= len(kept):
                        kept[size : size + len(block)] = block
                    size += len(block)
            except OSError as error:
                return f"{entry['name']} cannot be read ({type(error).__name__})"
            if size != entry["bytes"]:
                return f"{entry['name']} has {size} bytes, its record says {entry['bytes']}"
            if digest.hexdigest() != entry["sha256"]:
                return f"{entry['name']} does not have its checksum"
            if keep:
                self.kept[entry["name"]] = kept
        return None

    def saved(self) -> SavedState:
        """Its tensors, `<kind>:<HF name>` and `adam_step`, to be read by ranges. Raises StorageError."""
        return SavedState(self.location, [entry["name"] for entry in self.files], self.kept)

    def weights(self) -> SavedWeights:
        """{HF parameter name: fp32 weight} of the trained parameters, each read when it is asked for."""
        return SavedWeights(self.saved())


class SavedWeights(Mapping[str, Tensor]):
    """The trained weights of a state by HF name; each is read, whole, when it is asked for."""

    def __init__(self, saved: SavedState) -> None:
        self._saved = saved
        self._names = {key.removeprefix("weight:"): key for key in saved if key.startswith("weight:")}

    def __getitem__(self, name: str) -> Tensor:
        return self._saved.whole(self._names[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def commit_record(state: TrainState, files: list[dict[str, Any]], facts: Mapping[str, Any]) -> dict[str, Any]:
    """The content of commit.json."""
    return sealed.sealed(
        {"layout_version": LAYOUT_VERSION, "state": state.to_json(), "files": files, "facts": dict(facts)}
    )


def run_mathematics(run: str) -> str | None:
    """The fingerprint of what a run trains, from its run.json; None where that does not say."""
    record = sealed.read(RunPaths(run).record, {"fingerprints": dict})
    found = record["fingerprints"].get("mathematics") if record else None
    return found if isinstance(found, str) else None


def is_strange(run: str, record: Mapping[str, Any]) -> bool:
    """Does a record say that it is of another run?"""
    made_by, expected = record.get("mathematics"), run_mathematics(run)
    return made_by is not None and expected is not None and made_by != expected


def own_record(run: str, location: str, shape: sealed.Shape) -> dict[str, Any] | None:
    """sealed.read(), without a record that says that it is of another run."""
    record = sealed.read(location, shape)
    if record is not None and is_strange(run, record):
        sealed.passed_over(location, "it is of another run")
        return None
    return record


def own_lines(run: str, location: str, shapes: Mapping[str, sealed.Shape]) -> list[dict[str, Any]]:
    """sealed.read_lines(), without a file of which a line says that it is of another run."""
    lines = list(sealed.read_lines(location, shapes))
    said = {told for line in lines if isinstance(told := line.get("mathematics"), str)}
    if any(is_strange(run, {"mathematics": told}) for told in said):
        sealed.passed_over(location, "it is of another run")
        return []
    return lines


def _misfit(record: Mapping[str, Any], commit: CommitId) -> str | None:
    """What keeps a whole record from being this commit's."""
    state, files, facts = (record.get(name) for name in ("state", "files", "facts"))
    if not isinstance(state, dict) or not isinstance(files, list) or not isinstance(facts, dict):
        return "it is no commit record"
    shape = {**_STATE, **(_LATER if state.keys() & _LATER.keys() else {})}
    problem = sealed.problem_of(state, shape) or next(filter(None, (_file_problem(entry) for entry in files)), None)
    if problem:
        return problem
    if state.keys() != shape.keys():
        return f"its state has other fields ({', '.join(sorted(state.keys() ^ shape.keys()))})"
    if state["step"] != commit.step:
        return f"it is of step {state['step']}, not {commit.step}"
    return None


def _file_problem(entry: Any) -> str | None:
    problem = sealed.problem_of(entry, _FILE)
    if problem is None and (not re.fullmatch(r"[\w.-]+", entry["name"]) or entry["name"].startswith(".")):
        return f"it names a file outside of its directory: {entry['name']!r}"
    return problem


def _stranger(run: str, record: Mapping[str, Any], commit: CommitId) -> str | None:
    """What tells that a commit was made by another run or attempt; None: nothing does.

    The commit that a trial of a search has taken over from another is named by its attempt record.
    """
    facts, expected = record["facts"], run_mathematics(run)
    prints = facts.get("fingerprints")
    made_by = prints.get("mathematics") if isinstance(prints, dict) else None
    problem = None
    if expected is not None and made_by is not None and made_by != expected:
        problem = f"it is of another run (mathematics {made_by}, here {expected})"
    elif facts.get("attempt", commit.attempt) != commit.attempt:
        problem = f"it is of attempt {facts['attempt']}, not {commit.attempt}"
    return None if problem and is_copy(run, record, commit) else problem


def is_copy(run: str, record: Mapping[str, Any], commit: CommitId) -> bool:
    """Has a trial of a search taken this commit over from another run? Its attempt record says so."""
    attempt = sealed.read(attempt_path(run, commit.attempt), {})
    return attempt is not None and attempt.get("copied") == record["sha256"]
