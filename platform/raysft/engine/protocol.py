"""What the loop asks of an engine: a model and its optimizer as one object."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor


class MicroBatch(Protocol):
    """Arrays of one forward pass; [B, T] except sample_ids [S]. Made by data/feed/collate.py."""

    @property
    def input_ids(self) -> np.ndarray: ...
    @property
    def position_ids(self) -> np.ndarray: ...
    @property
    def labels(self) -> np.ndarray: ...
    @property
    def weights(self) -> np.ndarray: ...
    @property
    def sample_ids(self) -> np.ndarray: ...
    @property
    def num_tokens(self) -> int: ...
    @property
    def index(self) -> int: ...


@dataclass(frozen=True)
class StepCosts:
    """Where the time and the memory of a step went, the same on every rank."""

    data_wait_s: float
    """Of the rank that came to the update last: the others waited for it."""
    forward_backward_s: float
    """Of the same rank; with the communication inside the passes."""
    peak_bytes: int
    """Largest over the ranks: CUDA allocator's peak since the start, or the process's peak resident set."""
    notice: int
    """Largest notice that a rank was given from outside (train/watch/stop_requests.py)."""
    rank_s: tuple[float, ...] = ()
    """Of each rank: its wait for data and its forward passes, in which (ZeRO 0-2) it waits for nobody. Where those
    are not timed, a pipeline's, the wait alone."""


@dataclass(frozen=True)
class StepResult:
    """What an optimizer step did, the same on every rank except `sample_ids`."""

    terms: dict[str, float]
    """{term of the loss: its sum over the global step / its units}."""
    grad_norm: float
    """Global L2 norm before clipping; inf when the gradients are not finite."""
    skipped: bool
    """The gradients were not finite: no weight changed, on any rank."""
    units: dict[str, float]
    """{term: units of the global step}."""
    tokens: int
    """Real tokens (no padding) of the global step."""
    sample_ids: tuple[int, ...]
    """Samples in the tensors this rank's forward passes consumed; empty where another rank of the replica tells."""
    costs: StepCosts

    @property
    def loss(self) -> float:
        """Sum of the terms."""
        return sum(self.terms.values())


class Engine(Protocol):
    """Collective: every rank calls each method at the same point with its own share."""

    def train_step(
        self,
        micro_batches: Sequence[MicroBatch],
        units: Mapping[str, float],
        *,
        step: int,
        learning_rate: float,
        data_wait_s: float = 0.0,
        notice: int = 0,
    ) -> StepResult:
        """All micro-batches of a global step, then one update. units: THIS rank's; the engine sums them.

        data_wait_s: time this rank waited for the micro-batches; notice: what it was told from outside. Both are only
        passed on to all ranks, with the step's other costs.
        """

    def eval_step(self, micro_batches: Sequence[MicroBatch]) -> dict[str, float]:
        """{term: sum over all ranks' micro-batches}; changes nothing."""

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """(key, whole fp32 tensor, on any device) for weight, exp_avg, exp_avg_sq of each trained parameter.

        A tensor may be the one that the next step changes: whoever keeps it copies it.

        Keys are `<kind>:<HF parameter name>`, and `adam_step`: updates made, [] float32. Every rank must
        exhaust the iterator.
        """
