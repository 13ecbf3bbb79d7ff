"""Steps whose data a run leaves out: what the spike guard found. Kept in the run, so that every attempt agrees."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from raysft import storage


@dataclass(frozen=True)
class Skip:
    """The data of 0-based step `step` is not trained; the learning rate goes on as if it were."""

    step: int
    reason: str


def add_skip(run: str, skip: Skip) -> None:
    """Leave a step out from the next attempt on."""
    storage.write_json(storage.join(run, "skips", f"step-{skip.step:08d}.json"), asdict(skip))


def read_skips(run: str) -> list[Skip]:
    """All steps left out, in order."""
    root = storage.join(run, "skips")
    names = [name for name in storage.list_names(root) if name.startswith("step-")]  # no temporary files
    return [Skip(**storage.read_json(storage.join(root, name))) for name in names]
