"""What training knows at one moment: frozen records that the loop makes and hooks read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any


@dataclass(frozen=True)
class TrainState:
    """Everything besides weights and moments that a checkpoint holds."""

    step: int = 0
    """Optimizer steps done (skipped ones counted)."""
    skipped_steps: int = 0
    """Steps whose gradients were not finite."""
    tokens: int = 0
    """Real tokens (no padding) trained on."""
    target_tokens: float = 0.0
    """Target tokens trained on, weighted; 0.0 where no term of the loss is a mean over them."""
    cursor: Mapping[str, int] = field(default_factory=dict)
    """Where the data goes on. Empty: that follows from `step`."""
    untrained: Mapping[str, float] = field(default_factory=dict)
    """{SET/MEASURE: its value at step 0} of what a rule compares with later."""
    ended: str = ""
    """Why the run ends with this step, before its last one; empty: it goes on."""

    def to_json(self) -> dict[str, Any]:
        """As stored in a commit record."""
        return asdict(self)


@dataclass(frozen=True)
class StepInfo:
    """One optimizer step, as hooks and records see it."""

    state: TrainState
    """After the step."""
    loss: float
    """Weighted sum of the terms."""
    terms: Mapping[str, float]
    """{term of the loss: its mean over its units}, without its weight."""
    metrics: Mapping[str, float]
    """{metric of the objective: its mean over the global step}."""
    grad_norm: float
    skipped: bool
    replayed: bool
    """Its gradients were not finite at first. Not `skipped`: they were when it was done again."""
    learning_rate: float
    step_s: float
    """Wall time of the step, data wait included."""
    data_wait_s: float
    """Seconds that the rank waited for data for which the others waited."""
    forward_backward_s: float
    """Seconds of that rank's forward and backward. The rest of step_s: optimizer, communication after backward."""
    peak_bytes: int
    """Peak memory so far, largest over the ranks."""
    flops: float
    """Predicted work of the global step, forward and backward (recipe/resolve.py): of the rows trained."""
    tokens: int
    """Real tokens of the global step."""
    target_tokens: float
    """Target tokens of the global step, weighted; 0.0 where no term of the loss is a mean over them."""
    sample_ids: tuple[int, ...]
    """Samples that this rank's forward passes consumed."""
    notice: int
    """The most urgent thing that a rank was told from outside (stop_requests.py)."""
    rank_s: tuple[float, ...] = ()
    """Each rank's wait for data and its forward passes (aside.py)."""
    orthogonalised: int = 0
    """Matrices that Muon moved."""
    reserved_bytes: int | None = None
    """See StepCosts; None: there is no GPU."""
    device_bytes: int | None = None
    """Likewise."""


class Decision(Enum):
    """What a hook wants; the loop acts on the strongest."""

    CONTINUE = 0
    CHECKPOINT = 1
    """Commit the state, go on."""
    INTERRUPT = 2
    """Commit the state and end the attempt; the run goes on in another."""
    FINISH = 3
    """Commit the state and end the run here, with the model that it is."""
    ROLLBACK = 4
    """End the attempt; the next one goes on from the last commit and leaves out the data of this step."""
    STOP = 5
    """End the run here, without a model."""


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended. Returned, not raised, so that a deterministic end is never retried."""

    status: str
    """`finished`, `interrupted`, `rollback`, `stopped` or `failed`."""
    step: int
    reason: str = ""
    error: dict[str, str] | None = None
    """Error of a failed attempt: the RaysftError in its wire form (errors.to_fields)."""

    def to_json(self) -> dict[str, Any]:
        """As it crosses from the worker to the driver."""
        return asdict(self)
