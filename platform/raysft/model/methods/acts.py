"""What a method does in a step besides attaching: between backward and update, and after the update. Protocols."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from torch import Tensor


class Parameters(Protocol):
    """The trained parameters of an engine, by HF name, however they are partitioned.

    Whole fp32 tensors. Collective: every rank calls each method at the same point.
    """

    def weight(self, name: str) -> Tensor: ...

    def set_weight(self, name: str, value: Tensor) -> None: ...

    def gradient(self, name: str) -> Tensor:
        """The gradient of the global step's loss. Only between backward and update."""

    def set_gradient(self, name: str, value: Tensor) -> None:
        """What the optimizer will read. Only between backward and update."""


class StepActs(Protocol):
    """Called by the engine in every optimizer step, on all ranks alike."""

    def before_update(self, step: int, parameters: Parameters) -> None:
        """Gradients are there and may not be finite; they are not clipped yet. step: from 0. Another try of a step
        calls it once more."""

    def after_update(self, step: int, parameters: Parameters) -> None:
        """The optimizer has changed the weights; not called where it dropped the step."""

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """(`<kind>:<HF name>`, fp32) of all that a resumed run needs; the checkpoint keeps it beside the weights."""

    def restore(self, saved: Callable[[str], Tensor]) -> None:
        """saved: gives, by key, what state() gave before the commit that is gone on from."""
