"""Bytes of parameters, gradients and optimizer state on one rank under ZeRO (arXiv:1910.02054, section 5).

The paper counts 16 bytes a parameter; DeepSpeed with fp32 accumulation holds 18; plain fp32 holds 16. So every
figure names its Basis. raysft's own were read off DeepSpeed 0.19.8's tensors (tests/parity/test_planner.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from raysft.recipe.facts import ModelShape

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class Basis:
    """Bytes for each parameter (working) and for each trained one (the others)."""

    name: str
    working: int
    gradient: int
    master: int
    moments: int

    @property
    def per_trained(self) -> int:
        """Bytes of a trained parameter before anything is partitioned."""
        return self.working + self.gradient + self.master + self.moments


def state_bytes(moments: int) -> int:
    """What a checkpoint has of a trained parameter: fp32 weight and moments."""
    return 4 * (1 + moments)


ZERO_PAPER = Basis("ZeRO paper, mixed-precision Adam", working=2, gradient=2, master=4, moments=8)


def basis(precision: Precision, zero: int, moments: int = 2) -> Basis:
    """What raysft's engine holds, with so many moments of a weight (Adafactor's, of rows and columns, are not
    counted). bf16 with ZeRO 0 runs as ZeRO 1 (engine/ds_config.py: effective_stage)."""
    if precision == "fp32":
        return Basis(f"fp32, ZeRO {zero}", working=4, gradient=4, master=0 if zero == 0 else 4, moments=4 * moments)
    if zero <= 1:  # BF16_Optimizer: the bf16 gradients of a micro-batch besides the fp32 sums
        return Basis("bf16 with fp32 sums, ZeRO 1", working=2, gradient=6, master=4, moments=4 * moments)
    return Basis(f"bf16 with fp32 sums, ZeRO {zero}", working=2, gradient=4, master=4, moments=4 * moments)


@dataclass(frozen=True)
class States:
    """Bytes on one rank."""

    parameters: int
    masters: int
    gradients: int
    optimizer: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.parameters + self.masters + self.gradients + self.optimizer


def states_on_device(states: States, zero: int, micro_gradients: int) -> States:
    """What is left on a GPU with `parallel.offload: cpu`: masters, sums of gradients and moments lie in host memory,
    under ZeRO 3 the parameters too. micro_gradients: bytes of one micro-batch's, which ZeRO 1 keeps until it ends."""
    return States(
        parameters=0 if zero == 3 else states.parameters,
        masters=0,
        gradients=micro_gradients if zero == 1 else 0,
        optimizer=0,
    )


def model_states(parameters: int, trained: int, ranks: int, zero: int, per: Basis) -> States:
    """parameters, trained: of this rank's shard of the model; ranks: over which ZeRO partitions."""

    def share(stage: int) -> int:
        return ranks if zero >= stage else 1

    return States(
        parameters=per.working * parameters // share(3),
        masters=per.master * trained // share(1),
        gradients=per.gradient * trained // share(2),
        optimizer=per.moments * trained // share(1),
    )


TEACHER_CHUNK = 256
"""Positions of which a live teacher's logits exist at a time (evaluate/teachers.py)."""


def teacher_bytes(shape: ModelShape, working: int) -> int:
    """Live teachers of a rank: weights of so many bytes each, and a chunk's logits, its log-probabilities and their
    sums. What their layers make is gone before the student's pass begins."""
    return working * shape.teacher_parameters + (
        TEACHER_CHUNK * shape.vocab_size * 16 if shape.teacher_parameters else 0
    )
