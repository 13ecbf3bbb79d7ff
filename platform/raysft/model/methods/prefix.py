"""Prefix tuning: keys and values of virtual tokens in every layer (Li & Liang 2021, arXiv:2101.00190; P-tuning v2,
Liu et al. 2021, arXiv:2110.07602), by peft.

peft gives them to a model as a cache that is filled before the first token. A packed row has a place for them before
every segment instead (layout.py), and a cache that puts them there: what a layer computes at these places by itself
is replaced before anything attends to it.

Shapes: B rows, W tokens a row with virtual ones, n virtual tokens, H key heads, E head size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.masking_utils import create_masks_for_generate

from raysft.model.decoder import decoder
from raysft.model.fast.attention import Borders, segment_arguments
from raysft.model.methods.adapters import base_model
from raysft.model.methods.layout import Roomy, with_room
from raysft.model.methods.virtual_tokens import attach_encoder
from raysft.recipe.schema import Recipe
from raysft.recipe.sections.method import PrefixMethod


def attach(model: PreTrainedModel, recipe: Recipe) -> nn.Module:
    """The model with a fresh prefix. Raises ModelError."""
    from peft import PrefixTuningConfig  # 4 s to import: only where it is used

    method = recipe.method
    assert isinstance(method, PrefixMethod)
    width: Any = method.hidden_size  # None, peft takes that of the keys
    config = PrefixTuningConfig(
        num_virtual_tokens=method.virtual_tokens,
        prefix_projection=method.projection,
        encoder_hidden_size=width,
        task_type="CAUSAL_LM",
    )
    return attach_encoder(model, config, recipe.seed)


class Prefix:
    """The Forward of a model with a prefix."""

    def __init__(self, module: nn.Module) -> None:
        """module: as attach gave it."""
        found: Any = module
        self._module, self._model = found, base_model(module)
        self._count: int = found.active_peft_config.num_virtual_tokens

    @property
    def extra_positions(self) -> int:
        """See Forward."""
        return self._count

    def hidden_states(self, input_ids: Tensor, position_ids: Tensor, borders: Borders | None = None) -> Tensor:
        """See Forward. Virtual places hold a row's first token, which nobody looks at."""
        roomy, roomy_borders = with_room(position_ids, self._count, borders)
        wide = input_ids[:, :1].expand(roomy.position_ids.shape).flatten()
        wide = wide.index_copy(0, roomy.tokens.index, input_ids.flatten()).view_as(roomy.position_ids)
        given = self._module.get_prompt(batch_size=1)
        layers: list[Any] = [_Placed(layer.keys, layer.values, roomy) for layer in given.layers]
        hidden: Tensor = decoder(self._model)(
            input_ids=wide,
            position_ids=roomy.position_ids,
            attention_mask=self._masks(roomy),
            past_key_values=Cache(layers=layers),
            use_cache=False,
            **segment_arguments(self._model, roomy.position_ids, roomy_borders),
        )[0]
        return roomy.of_tokens(hidden)

    def prompts(self, input_ids: Tensor, mask: Tensor) -> Mapping[str, Any]:
        """See Forward. Positions count what the mask shows: the prompt's follow the prefix, whatever padding is
        between."""
        seen = mask.new_ones((len(mask), self._count))
        return {
            "input_ids": input_ids,
            "attention_mask": torch.cat([seen, mask], dim=1),
            "past_key_values": self._module.get_prompt(batch_size=len(input_ids)),
        }

    def _masks(self, roomy: Roomy) -> Any:
        """Those that the model would make of the positions by itself, which it does not beside a cache."""
        like = torch.empty((*roomy.position_ids.shape, 0), dtype=self._model.dtype, device=roomy.position_ids.device)
        return create_masks_for_generate(self._model.config, like, None, None, roomy.position_ids)


class _Placed(CacheLayerMixin):
    """Keys and values of one layer's virtual tokens, put into their places before every segment."""

    def __init__(self, keys: Tensor, values: Tensor, roomy: Roomy) -> None:
        """keys, values: [1, H, n, E]."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._own, self._roomy = (keys, values), roomy
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """[B, H, W, E] each."""
        return self._place(key_states, self._own[0]), self._place(value_states, self._own[1])

    def _place(self, states: Tensor, own: Tensor) -> Tensor:
        virtual = own[0].transpose(0, 1).to(states.dtype)  # [n, H, E]
        return self._roomy.put(virtual, states.transpose(1, 2)).transpose(1, 2)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """There is nothing to allocate."""

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Keys are as many as queries."""
        return query_length, 0

    def get_seq_length(self) -> int:
        """Nothing lies before the row."""
        return 0

    def get_max_length(self) -> int:
        """No limit."""
        return -1
