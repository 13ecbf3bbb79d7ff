"""Commits the checkpoints of one attempt behind the training. Owns the copy, the thread, retention; no layout.

save() returns at once: a thread copies this rank's share of the state into memory that is kept for it (snapshot.py),
and writes it. At most one save is under way: the next one waits for it (back-pressure). No collective runs in the
thread: rank 0 commits when it sees the records of all ranks in storage, so what is committed is whole.

While storage fails, the thread tries again with growing pauses for PATIENCE_S; training goes on up to its next save
and waits there. The last commit stays.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from math import isfinite
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

from raysft import storage
from raysft.engine.hold import Hold
from raysft.engine.slices import Slice
from raysft.errors import CheckpointError, RaysftError, StorageError
from raysft.recipe.measures import HELD_OUT_LOSS
from raysft.recipe.tune import mode_of
from raysft.train.commits.layout import Checkpoint, CommitId, commit_directory, commit_record, read_commits
from raysft.train.commits.lineage import Attempt, lineage, read_attempts
from raysft.train.commits.saved import write_slices
from raysft.train.commits.snapshot import Snapshot
from raysft.train.group import Group
from raysft.train.history import incidents
from raysft.train.state import TrainState

logger = logging.getLogger(__name__)

T = TypeVar("T")

PATIENCE_S = 600.0
"""How long a save is tried again, and how long rank 0 waits for the other ranks' files."""

MAX_PAUSE_S = 10.0
"""Between two tries."""

LAST_PATIENCE_S = 5.0
"""How long an attempt that ends by an error waits for its save."""


@dataclass(frozen=True)
class Retention:
    """Which commits stay. The newest always does."""

    last: int
    every_steps: int | None = None
    best: str | None = None
    """The best one by this measure, SET/MEASURE (recipe/measures.py)."""

    def keeps(self, chain: list[tuple[CommitId, float | None]]) -> set[CommitId]:
        """Commits to keep (pure). chain: a lineage, newest first, with that measure at each; NaN is no value."""
        kept = {commit for commit, _ in chain[: self.last]}
        if self.every_steps:
            kept |= {commit for commit, _ in chain if commit.step % self.every_steps == 0}
        sign = -1.0 if self.best and mode_of(self.best) == "max" else 1.0
        measured = [(sign * value, -c.step, c) for c, value in chain if value is not None and isfinite(value)]
        if self.best and measured:
            kept.add(min(measured, key=lambda found: found[:2])[2])
        return kept


@dataclass
class StorageOutage:
    """What one save met of a storage that failed."""

    step: int = 0
    seconds: float = 0.0
    """From a first failed try to the one that did not fail, over the acts of the save."""
    tries: int = 0
    """That failed."""
    last: str = ""
    """Their newest error."""


class Stateful(Protocol):
    """What is saved: an Engine (engine/protocol.py)."""

    hold: Hold

    def state(self) -> Iterator[Slice]: ...


class Writer:
    """See the module. Every rank calls save() and finish() at the same points."""

    def __init__(
        self,
        run: str,
        attempt: Attempt,
        group: Group,
        *,
        retention: Retention,
        facts: Mapping[str, Any],
        patience_s: float = PATIENCE_S,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        """beat: called as long as a save that the training waits for makes progress."""
        self._run, self._attempt, self._group = run, attempt, group
        self._retention, self._facts, self._patience_s, self._beat = retention, dict(facts), patience_s, beat
        parent = asdict(attempt.parent) if attempt.parent else None
        self._origin = {"attempt": attempt.number, "parent": parent}
        self._snapshot = Snapshot()
        self._thread: threading.Thread | None = None
        self._error: RaysftError | None = None
        self._away = StorageOutage()
        self._progress = 0

    def save(
        self,
        engine: Stateful,
        state: TrainState,
        measured: Mapping[str, float] = MappingProxyType({}),
        before: Callable[[], None] = lambda: None,
    ) -> None:
        """Commit the state of now soon; the engine's next update waits for its copy. Raises as finish().

        measured: {SET/MEASURE: value} at this step. before() is called in the thread, on every rank, before anything
        is committed: what must not be older.
        """
        self.finish()
        self._away = StorageOutage(state.step)
        self._snapshot.begin()
        engine.hold.until(partial(self._snapshot.wait, self._beat))
        arguments = (engine.state(), CommitId(self._attempt.number, state.step), state, measured, before)
        self._thread = threading.Thread(target=self._work, args=arguments, name="checkpoint", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait until the newest save is committed. Raises, on every rank, where any rank could not write."""
        if self._thread is None:
            return
        started, seen = time.monotonic(), -1
        while self._thread.is_alive():
            if seen != (seen := self._progress):
                self._beat()
            self._thread.join(1.0)
        self._thread, error, self._error = None, self._error, None
        if self._away.tries:
            self._tell_away(time.monotonic() - started)
        if not self._group.all_true(error is None, self._beat):
            raise error or StorageError(
                "another rank could not write its part of a checkpoint",
                got=f"no commit after {self._patience_s:g} s",
                expected="storage that every rank can write to",
                fix="see that rank's error; the run goes on from its last commit when started again",
            )

    def held_s(self) -> float:
        """How long updates have waited for copies since this was asked last."""
        waited_s, self._snapshot.waited_s = self._snapshot.waited_s, 0.0
        return waited_s

    def close(self) -> None:
        """After an error: a little time for the save that is under way; no collective."""
        if self._thread is not None:
            self._thread.join(LAST_PATIENCE_S)

    def _tell_away(self, waited_s: float) -> None:
        """Keep how long storage was away from this rank, and for how much of it the training stood still."""
        away, step = self._away, self._away.step
        what = f"rank {self._group.rank}: storage was away for {away.seconds:.1f} s while step {step} was written"
        more = f"{away.tries} tries failed ({away.last}); the training waited {waited_s:.1f} s for the save"
        facts = {"away_s": round(away.seconds, 3), "tries": away.tries, "waited_s": round(waited_s, 3)}
        number = self._attempt.number
        incidents.record(
            self._run, "storage", f"{what}: {more}", attempt=number, step=step, detected_after_s=None, facts=facts
        )

    def _work(
        self,
        slices: Iterator[Slice],
        commit: CommitId,
        state: TrainState,
        measured: Mapping[str, float],
        before: Callable[[], None],
    ) -> None:
        """The thread: copy, write, and on rank 0 commit when all have written."""
        location, name = commit_directory(self._run, commit), f"rank-{self._group.rank:05d}"
        try:
            self._snapshot.take(slices, self._made_progress)
            self._tried(before)
            place, share = storage.join(location, f"{name}.safetensors"), list(self._snapshot.share.values())
            entry = self._tried(
                lambda: {"name": f"{name}.safetensors", **write_slices(place, share, self._made_progress)}
            )
            self._tried(lambda: storage.write_json(storage.join(location, f"{name}.json"), entry))
            if self._group.rank == 0:
                self._commit(location, state, measured)
                self._retain()
        except RaysftError as error:
            self._error = error
        except Exception as error:  # thread boundary: told by finish(), on every rank
            self._error = StorageError(
                f"the checkpoint of step {state.step} cannot be committed",
                got=f"{type(error).__name__}: {error}",
                expected="storage that keeps what is written",
                fix="look at the storage; the run goes on from its last commit when started again",
            )

    def _made_progress(self) -> None:
        self._progress += 1

    def _tried(self, act: Callable[[], T]) -> T:
        """act(), again and again while storage fails."""
        started, pause_s, before_s = time.monotonic(), min(0.5, self._patience_s / 4), self._away.seconds
        while True:
            self._made_progress()
            try:
                return act()
            except (StorageError, OSError) as error:  # an object store's listing raises OSError
                self._away.tries, self._away.last = self._away.tries + 1, " ".join(str(error).split())[:200]
                self._away.seconds = before_s + time.monotonic() - started + pause_s
                if time.monotonic() + pause_s > started + self._patience_s:
                    raise
                logger.warning("checkpoint: %s; trying again in %.1f s", self._away.last, pause_s)
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, MAX_PAUSE_S)

    def _commit(self, location: str, state: TrainState, measured: Mapping[str, float]) -> None:
        """Rank 0: the commit record, once the files of all ranks are there."""
        names = [f"rank-{rank:05d}.json" for rank in range(self._group.size)]
        deadline, pause_s = time.monotonic() + self._patience_s, 0.01
        while missing := sorted(set(names) - set(self._tried(lambda: storage.list_names(location)))):
            if time.monotonic() > deadline:
                raise CheckpointError(
                    f"the checkpoint of step {state.step} is not whole",
                    got=f"no {missing[0]} after {self._patience_s:g} s",
                    expected="a file of every rank",
                    fix="see that rank's log; the run goes on from its last commit when started again",
                )
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 1.0)
        files = self._tried(lambda: [storage.read_json(storage.join(location, name)) for name in names])
        facts = self._facts | {"measured": dict(measured), "writer": uuid.uuid4().hex, **self._origin}
        record = commit_record(state, files, facts)
        place = storage.join(location, "commit.json")
        is_ours = self._tried(lambda: storage.create_exclusive(place, record))
        if not is_ours and self._tried(lambda: storage.read_json(place)) != record:  # equal: its answer was lost
            raise CheckpointError(
                f"step {state.step} of attempt {self._attempt.number} is committed already",
                got=location,
                expected="one writer for each attempt",
                fix="end the other process that trains this run",
            )

    def _retain(self) -> None:
        """Delete what need not stay: the record first, then the files. What cannot be deleted is left."""
        try:
            chain = lineage(read_attempts(self._run), read_commits(self._run))
            values = [_measured(self._run, commit, self._retention.best) for commit in chain]
            kept = self._retention.keeps(list(zip(chain, values, strict=True)))
            for commit in chain:
                if commit not in kept:
                    directory = commit_directory(self._run, commit)
                    storage.remove_tree(storage.join(directory, "commit.json"))
                    storage.remove_tree(directory)
        except (OSError, ValueError, RaysftError) as error:
            logger.warning("old checkpoints were not removed: %s", error)


def _measured(run: str, commit: CommitId, measure: str | None) -> float | None:
    """The value of a measure at a commit; None where none was measured, or the commit is damaged."""
    if measure is None:
        return None
    try:
        facts = Checkpoint.open(run, commit).record["facts"]
    except (OSError, ValueError, CheckpointError):
        return None
    known = facts.get("measured")
    if not isinstance(known, dict):  # of an earlier version, which knew one measure
        known = {HELD_OUT_LOSS: facts.get("eval_loss")}
    value = known.get(measure)
    return value if isinstance(value, float) else None
