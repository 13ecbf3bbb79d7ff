"""Virtual tokens before every sample, as embeddings that an encoder of peft gives: prompt tuning and P-tuning.

Owns what they have in common once they are on a model. What is trained of them is their encoder; which one, and how
it begins, stands in prompt.py and p_tuning.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from raysft.errors import ModelError
from raysft.model.fast.attention import Borders
from raysft.model.fast.loss import embedded_states
from raysft.model.fast.places import Places
from raysft.model.methods.adapters import base_model, settled
from raysft.model.methods.layout import Roomy, with_room

if TYPE_CHECKING:
    from peft import PromptLearningConfig


def attach_encoder(model: PreTrainedModel, config: PromptLearningConfig, seed: int) -> nn.Module:
    """The model frozen, with a fresh encoder beside it. Raises ModelError.

    peft saves what the encoder gives, not its weights: it exists even where the model's own are not there.
    """
    from peft import get_peft_model  # 4 s to import: only where it is used

    model.requires_grad_(False)
    generator_state = torch.get_rng_state()
    torch.manual_seed(seed)
    try:
        with settled():
            adapted: Any = get_peft_model(model, config)
    except (ValueError, AttributeError, KeyError) as error:  # a config without the sizes that peft looks for
        raise ModelError(
            "peft puts no virtual tokens before this model",
            got=f"{model.config.model_type}: {' '.join(str(error).split())[:200]}",
            expected="a model whose hidden size and embedding peft finds",
            fix="use another method.kind",
        ) from error
    finally:
        torch.set_rng_state(generator_state)
    encoder = adapted.prompt_encoder["default"]
    if any(parameter.is_meta for parameter in encoder.parameters()):
        encoder.to_empty(device="cpu")
        for parameter in encoder.parameters():
            nn.init.zeros_(parameter)
    found: nn.Module = adapted
    return found


class VirtualTokens:
    """The Forward of a model with an encoder of virtual tokens."""

    def __init__(self, module: nn.Module) -> None:
        """module: as attach_encoder gave it."""
        found: Any = module
        self._model, self._encoder = base_model(module), found.prompt_encoder["default"]
        self._ids: Tensor = found.prompt_tokens["default"]

    @property
    def extra_positions(self) -> int:
        """See Forward."""
        return len(self._ids)

    def hidden_states(self, input_ids: Tensor, position_ids: Tensor, borders: Borders | None = None) -> Tensor:
        """See Forward."""
        roomy, roomy_borders = with_room(position_ids, len(self._ids), borders)
        wide = self._spread(input_ids, roomy)
        hidden = embedded_states(self._model, wide, roomy.position_ids, roomy_borders)
        return roomy.of_tokens(hidden)

    def prompts(self, input_ids: Tensor, mask: Tensor) -> Mapping[str, Any]:
        """See Forward. Padding stays in front of the virtual tokens, so that these stand right before the prompt, as
        they do without padding; peft's own generate() puts the padding between them."""
        count = len(self._ids)
        padding = (mask == 0).sum(1, keepdim=True)
        columns = torch.arange(input_ids.shape[1] + count, device=input_ids.device)
        is_virtual = (columns >= padding) & (columns < padding + count)
        roomy = Roomy(columns.expand(len(input_ids), -1), Places.where(is_virtual), Places.where(~is_virtual))
        return {
            "inputs_embeds": self._spread(input_ids, roomy),
            "attention_mask": (columns >= padding).to(mask.dtype),
        }

    def _spread(self, input_ids: Tensor, roomy: Roomy) -> Tensor:
        """[B, W, D]. Both layers are called whole: ZeRO 3 gathers their weights around their forward."""
        tokens: Any = self._model.get_input_embeddings()
        virtual = self._encoder(self._ids.to(input_ids.device)[None])[0]  # [n, D]
        return roomy.spread(tokens(input_ids), virtual)
