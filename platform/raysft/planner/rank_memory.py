"""What a rank holds at the peak of a step, by class."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from raysft.planner.states import States


@dataclass(frozen=True)
class RankMemory:
    """Bytes at the peak of a step on a rank of one stage."""

    stage: int
    states: States
    activations: int
    logits: int
    """One chunk of logits and the gradients of the head."""
    buffers: int
    """Gathered weights, copies of gradients; after the passes, what they need beyond what these have left free."""
    saved: int
    """On CPU: the copy of its share of the newest save, which is written behind the training (planner/host.py)."""
    teachers: int = 0
    """Live teachers, whole, and a chunk of their logits."""

    @property
    def total(self) -> int:
        """All of them."""
        own = self.states.total + self.activations + self.logits + self.buffers
        return own + self.saved + self.teachers

    @property
    def classes(self) -> dict[str, int]:
        """Bytes by name."""
        return {
            **asdict(self.states),
            "activations": self.activations,
            "logits": self.logits,
            "buffers": self.buffers,
            "saved": self.saved,
            "teachers": self.teachers,
        }
