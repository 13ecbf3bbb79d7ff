"""`parallel:`: how the model is split over workers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from raysft.recipe.cleaning import Section


class ParallelSection(Section):
    """How the model is split over workers. Workers = data-parallel replicas x tensor x pipeline x sequence."""

    zero: Literal[0, 1, 2, 3] = Field(
        2,
        description="DeepSpeed ZeRO stage (arXiv:1910.02054): what replicas share out. 0: nothing; 1: optimizer "
        "state; 2: gradients too; 3: weights too.",
    )
    tensor: int = Field(1, ge=1, description="Workers that share out each weight matrix (tensor parallelism).")
    pipeline: int = Field(1, ge=1, description="Workers that share out the layers, as stages (pipeline parallelism).")
    sequence: int = Field(
        1, ge=1, description="Workers that share out each row's tokens (Ulysses, arXiv:2309.14509)."
    )
    offload: Literal["none", "cpu"] = Field(
        "none", description="cpu: optimizer state, with `zero: 3` also weights, in host memory (arXiv:2101.06840)."
    )
    overlap: bool | None = Field(
        None,
        description="Sum gradients over workers while backward goes on (ZeRO 1, 2: with a second buffer). Not set: "
        "with `zero: 3` on GPUs, unless weights are offloaded.",
    )
    secondary_shards: int = Field(
        1,
        ge=1,
        description="With `zero: 3`: neighbours that share a second copy of the weights (ZeRO++ hpZ); 1: none.",
    )
    auto: bool = Field(
        False, description="Choose zero, tensor, pipeline and sequence: the fastest that fits (`raysft plan`)."
    )
    auto_micro_batch: bool = Field(
        False, description="Halve train.micro_batch_rows until the largest rows fit into memory; same global step."
    )

    @field_validator("zero", mode="before")
    @classmethod
    def _whole_number(cls, value: object) -> object:
        """`zero: true` is no stage, though to Python it is 1."""
        if type(value) is not int:
            raise ValueError("0, 1, 2 or 3")  # what is expected: mistakes.py
        return value
