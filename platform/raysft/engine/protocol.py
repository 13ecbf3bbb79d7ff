"""What the loop asks of an engine: a model and its optimizer as one object."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from raysft.engine.hold import Hold
from raysft.engine.slices import Slice
from raysft.objectives.batch import HostBatch
from raysft.objectives.reduce import Reduced, Sums


@dataclass(frozen=True)
class StepCosts:
    """Where the time and the memory of a step went, the same on every rank."""

    passes_s: tuple[float, ...]
    """Each rank's time for its forward and backward passes; with the communication inside them."""
    forward_s: tuple[float, ...]
    """Each rank's time for its forward passes, in which (ZeRO 0-2) it waits for nobody. 0.0 where they are not timed:
    a pipeline's."""
    peak_bytes: int
    """Largest over the ranks: CUDA allocator's peak since the probe (train/probe.py), or the process's peak resident
    set since its start."""
    reserved_bytes: int | None = None
    """What that allocator held at most, likewise: what lies unused between tensors, too. None: there is no GPU."""
    device_bytes: int | None = None
    """What is in use on the fullest GPU as its driver says: by all processes, with CUDA's context and NCCL's buffers.
    None: there is no GPU."""


@dataclass(frozen=True)
class StepResult:
    """What an optimizer step did, the same on every rank except `sample_ids`."""

    found: Reduced
    """The loss, its terms and the metrics, over the global step."""
    grad_norm: float
    """Global L2 norm before clipping; inf when the gradients are not finite."""
    skipped: bool
    """The gradients were not finite: no weight changed, on any rank."""
    tokens: int
    """Real tokens (no padding) of the global step."""
    sample_ids: tuple[int, ...]
    """Samples in the tensors this rank's forward passes consumed; empty where another rank of the replica tells."""
    costs: StepCosts
    asides: tuple[tuple[float, ...], ...] = ()
    """What each rank passed on, in the order of the ranks."""
    orthogonalised: int = 0
    """Matrices that Muon moved."""

    @property
    def loss(self) -> float:
        """Weighted sum of the terms."""
        return self.found.loss


class Engine(Protocol):
    """Collective: every rank calls each method at the same point with its own share."""

    hold: Hold
    """What the next update waits for before it changes anything of the state; no pass changes it."""

    def train_step(
        self,
        micro_batches: Sequence[HostBatch],
        units: Mapping[str, float],
        *,
        step: int,
        learning_rate: float,
        aside: Sequence[float] = (),
    ) -> StepResult:
        """All micro-batches of a global step, then one update. units: THIS rank's; the engine sums them.

        aside: numbers that the engine does not look at. It passes them on to all ranks, with the step's sums; every
        rank gives as many.
        """

    def eval_step(self, micro_batches: Sequence[HostBatch], units: Mapping[str, float]) -> Sums:
        """Sums over all ranks' micro-batches. units: THIS rank's. Changes nothing."""

    def state(self) -> Iterator[Slice]:
        """What this rank gives of weight, exp_avg and exp_avg_sq of each trained parameter, and of `adam_step`
        (updates made, []): together with the other ranks' every element once. Not collective.
        """
