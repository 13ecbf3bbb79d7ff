"""The layout of a run directory: where each attempt leaves what. The one owner of these names.

run.json  result.json                       who the run is, how it ended
start.safetensors                           what its adapters begin with, where that is computed
attempts/attempt-0002.json                  which commit an attempt began at
checkpoints/attempt-0002/step-00000040/     a commit
metrics/attempt-0002.jsonl                  losses and rates of each step
ledger/attempt-0002/rank-00000.jsonl        samples of each step
goodput/attempt-0002.jsonl                  where time went
failures/attempt-0002-rank-00000.json       what a rank raised
stacks/attempt-0002-rank-00000.txt          where a rank hung
stacks/attempt-0002-rank-00000.json         its newest collectives then
profile/attempt-0002-rank-00000.json        a trace
"""

from __future__ import annotations

from dataclasses import dataclass

from raysft import storage

ATTEMPT = r"attempt-\d{4,}"
STEP = r"step-\d{8,}"
RANK_LEDGER = r"rank-\d{5,}\.jsonl"
FAILURE = rf"{ATTEMPT}-rank-\d{{5,}}\.json"
ATTEMPT_TRACE = rf"{ATTEMPT}(\.jsonl?)?"
"""Regular expressions of names, for sealed.names()."""


def attempt_name(number: int) -> str:
    """`attempt-0002`."""
    return f"attempt-{number:04d}"


def attempt_number(name: str) -> int:
    """The number in a name that matches ATTEMPT_TRACE."""
    return int(name.removeprefix("attempt-").partition(".")[0])


def step_number(name: str) -> int:
    """The number in a name that matches STEP."""
    return int(name.removeprefix("step-"))


def is_of_attempt(name: str, number: int) -> bool:
    """Is a file of a rank (failures, stacks, profile) of this attempt?"""
    return name.startswith(f"{attempt_name(number)}-")


@dataclass(frozen=True)
class RunPaths:
    """Locations in a run directory."""

    run: str

    @property
    def record(self) -> str:
        """Who the run is."""
        return storage.join(self.run, "run.json")

    @property
    def result(self) -> str:
        """Written when the run is whole."""
        return storage.join(self.run, "result.json")

    @property
    def start(self) -> str:
        """What adapters begin with, where that is computed."""
        return storage.join(self.run, "start.safetensors")

    def room(self, name: str) -> str:
        """A directory of the run by its name above: `metrics`, `stacks` and so on."""
        return storage.join(self.run, name)

    def attempt(self, number: int) -> str:
        """An attempt's record."""
        return storage.join(self.room("attempts"), f"{attempt_name(number)}.json")

    def save(self, attempt: int, step: int) -> str:
        """Directory of a commit."""
        return storage.join(self.room("checkpoints"), attempt_name(attempt), f"step-{step:08d}")

    def metrics(self, attempt: int) -> str:
        """Lines of rank 0."""
        return storage.join(self.room("metrics"), f"{attempt_name(attempt)}.jsonl")

    def ledgers(self, attempt: int) -> str:
        """Directory of all ranks' ledgers."""
        return storage.join(self.room("ledger"), attempt_name(attempt))

    def ledger(self, attempt: int, rank: int) -> str:
        """Lines of one rank."""
        return storage.join(self.ledgers(attempt), f"rank-{rank:05d}.jsonl")

    def goodput(self, attempt: int) -> str:
        """Lines of rank 0."""
        return storage.join(self.room("goodput"), f"{attempt_name(attempt)}.jsonl")

    def failure(self, attempt: int, rank: int) -> str:
        """What a rank raised."""
        return storage.join(self.room("failures"), f"{attempt_name(attempt)}-rank-{rank:05d}.json")

    def stack(self, attempt: int, rank: int) -> str:
        """Where a rank hung."""
        return storage.join(self.room("stacks"), f"{attempt_name(attempt)}-rank-{rank:05d}.txt")

    def flight(self, attempt: int, rank: int) -> str:
        """Which collectives a rank entered last, when it hung."""
        return storage.join(self.room("stacks"), f"{attempt_name(attempt)}-rank-{rank:05d}.json")

    def trace(self, attempt: int, rank: int = 0) -> str:
        """A profiler's trace."""
        return storage.join(self.room("profile"), f"{attempt_name(attempt)}-rank-{rank:05d}.json")
