"""How a model with its adapter turns rows into hidden states and prompts into answers: the protocol, the plain way.

Most adapters lie inside of layers: the model runs as it always does, and may be merged. One whose own forward must
run (virtual tokens, prefixes) implements this protocol; training, held-out losses, answers and checks go through it,
and neither data nor objectives know of it.

Shapes: B rows, T tokens a row, D hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor
from transformers import PreTrainedModel

from raysft.model.fast.attention import Borders
from raysft.model.fast.loss import hidden_states


class Forward(Protocol):
    """A model with its adapter, in use. Inside of the wrapped module's forward in training: ZeRO 3 gathers there."""

    @property
    def extra_positions(self) -> int:
        """Positions that it takes before those of a sample's tokens."""

    def hidden_states(self, input_ids: Tensor, position_ids: Tensor, borders: Borders | None = None) -> Tensor:
        """What the head reads at these tokens, [B, T, D], each sample as if it were alone.

        input_ids, position_ids: [B, T] int64. Positions restart at 0 where a sample starts, whatever the adapter puts
        before it. borders: where those samples begin, if that is known.
        """

    def prompts(self, input_ids: Tensor, mask: Tensor) -> Mapping[str, Any]:
        """What the model's own generate() takes for prompts, [B, T], padded on the left where the mask is 0."""


class PlainForward:
    """The model by itself, adapters in its layers or merged."""

    extra_positions = 0

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model

    def hidden_states(self, input_ids: Tensor, position_ids: Tensor, borders: Borders | None = None) -> Tensor:
        """See Forward."""
        return hidden_states(self._model, input_ids, position_ids, borders)

    def prompts(self, input_ids: Tensor, mask: Tensor) -> Mapping[str, Any]:
        """See Forward."""
        return {"input_ids": input_ids, "attention_mask": mask}
