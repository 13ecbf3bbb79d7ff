"""Steps whose data a run leaves out: what the spike guard found. Kept in the run, so that every attempt agrees."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from raysft import sealed, storage


@dataclass(frozen=True)
class Skip:
    """The data of 0-based step `step` is not trained; the learning rate goes on as if it were."""

    step: int
    reason: str


def add_skip(run: str, skip: Skip) -> None:
    """Leave a step out from the next attempt on."""
    sealed.write(storage.join(run, "skips", f"step-{skip.step:08d}.json"), asdict(skip))


def read_skips(run: str) -> list[Skip]:
    """All steps left out, in order. Which step it is stands in the name: a damaged record still leaves it out."""
    root = storage.join(run, "skips")
    names = sealed.names(root, r"step-\d{8,}\.json")
    records = {int(name[5:-5]): sealed.read(storage.join(root, name), {"step": int, "reason": str}) for name in names}
    return [Skip(step, record["reason"] if record else "its record is lost") for step, record in records.items()]
