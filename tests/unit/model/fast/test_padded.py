"""Attention of padded batches: no query is without a key, in prompts and in answers, and tokens are as without it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fakes import LLAMA
from families import COHERE, GPT2, TIED, make_model
from torch import nn
from transformers import PreTrainedModel

from raysft.model.fast.padded import PADDED, padded_attention

SLIDING = LLAMA | {"model_type": "mistral", "sliding_window": 3}
KINDS = {"llama": LLAMA, "tied": TIED, "cohere": COHERE, "gpt2": GPT2, "sliding": SLIDING}
WIDTH = 12


@pytest.mark.parametrize("kind", KINDS)
def test_no_query_is_without_a_key_and_tokens_are_those_of_each_prompt_alone(kind: str) -> None:
    model = make_model(KINDS[kind], "sdpa")
    masks = masks_seen(model)
    prompts = [list(range(5, 5 + length)) for length in (WIDTH, 1, 7)]
    ids = torch.tensor([[0] * (WIDTH - len(one)) + one for one in prompts])
    mask = torch.tensor([[0] * (WIDTH - len(one)) + [1] * len(one) for one in prompts])
    with padded_attention(model):
        together = model.generate(ids, attention_mask=mask, max_new_tokens=5, do_sample=False, eos_token_id=None)
    assert len(masks) > 5, "each step of each layer was looked at"
    assert any(seen is not None for seen in masks)
    assert all(bool(seen.any(-1).all()) for seen in masks if seen is not None)
    for row, one in zip(together, prompts, strict=True):
        alone = list(one)
        for _ in range(5):
            alone.append(int(model(torch.tensor([alone]), use_cache=False).logits[0, -1].argmax()))
        assert row.tolist()[WIDTH:] == alone[len(one) :]


def test_without_it_transformers_makes_such_queries() -> None:
    """When this fails, padded.py may go: look at torch's kernels for rows that are masked throughout, too."""
    model = make_model(LLAMA, "sdpa")
    masks = masks_seen(model)
    model(torch.tensor([[0, 0, 5], [5, 6, 7]]), attention_mask=torch.tensor([[0, 0, 1], [1, 1, 1]]))
    assert not all(bool(seen.any(-1).all()) for seen in masks if seen is not None)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_model_is_left_as_it_was(attention: str) -> None:
    model, inside = make_model(LLAMA, attention), []

    def fail_inside() -> None:
        with padded_attention(model):
            inside.append(model.config._attn_implementation)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert inside == [PADDED if attention == "sdpa" else attention]
    assert model.config._attn_implementation == attention


def masks_seen(model: PreTrainedModel) -> list[torch.Tensor | None]:
    """What each attention module is given as its mask from now on."""
    seen: list[torch.Tensor | None] = []

    def look(module: nn.Module, arguments: Any, named: dict[str, Any]) -> None:
        seen.append(named["attention_mask"])

    for name, module in model.named_modules():
        if name.endswith(("self_attn", ".attn")):
            module.register_forward_pre_hook(look, with_kwargs=True)
    return seen
