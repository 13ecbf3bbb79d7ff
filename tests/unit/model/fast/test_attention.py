"""Packed rows through segment attention against transformers' eager forward of each segment alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from families import FAMILIES, GPT2, LLAMA, NEOX, TIED, V, make_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from raysft.errors import ModelError
from raysft.model.fast.attention import SEGMENTS, segment_arguments, segment_attention, use_segment_attention
from raysft.model.fast.loss import hidden_states

WINDOWED = LLAMA | {"model_type": "mistral", "sliding_window": 4}
GEMMA3 = LLAMA | {
    "model_type": "gemma3_text",
    "head_dim": 8,
    "sliding_window": 4,
    "layer_types": ["sliding_attention", "full_attention"],
}
OPT = {"model_type": "opt", "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4} | {
    "max_position_embeddings": 64,
    "word_embed_proj_dim": 32,
    "dropout": 0.0,
}
USED = {"llama": LLAMA, "tied": TIED, "gpt2": GPT2, "windowed": WINDOWED, "gemma3": GEMMA3, "neox": NEOX, "opt": OPT}
USED |= {name: FAMILIES[name] for name in ("cohere", "granite")}
ROWS = [[5, 9, 2], [11], [3, 3]]


def packed(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    """(ids, positions) [B, T] of random segments side by side; padding is a segment of its own."""
    width = max(map(sum, rows))
    ids = torch.randint(1, V, (len(rows), width), generator=torch.Generator().manual_seed(7))
    positions = [torch.cat([torch.arange(n) for n in (*row, width - sum(row))]) for row in rows]
    return ids, torch.stack(positions)


def run(model: PreTrainedModel, rows: list[list[int]]) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Hidden states of each segment, packed, and the gradients of a sum over them (padding left out)."""
    ids, positions = packed(rows)
    hidden = hidden_states(model, ids, positions)
    return finish(model, [p for states, row in zip(hidden, rows, strict=True) for p in states[: sum(row)].split(row)])


def run_alone(model: PreTrainedModel, rows: list[list[int]]) -> tuple[list[Tensor], dict[str, Tensor]]:
    """As run; each segment by itself through transformers' own forward."""
    ids, _ = packed(rows)
    segments = [part for line, row in zip(ids, rows, strict=True) for part in line[: sum(row)].split(row)]
    return finish(model, [model.base_model(input_ids=s[None], use_cache=False)[0][0] for s in segments])


def finish(model: PreTrainedModel, parts: list[Tensor]) -> tuple[list[Tensor], dict[str, Tensor]]:
    directions = torch.Generator().manual_seed(3)
    model.zero_grad()
    sum((part * torch.randn(part.shape, generator=directions)).sum() for part in parts).backward()  # type: ignore[union-attr]
    return parts, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", USED)
def test_a_packed_segment_is_what_it_is_alone(family: str, checkpointing: bool) -> None:
    expected, theirs = run_alone(make_model(USED[family], "eager"), ROWS)
    model = make_model(USED[family], "sdpa")
    assert use_segment_attention(model)
    if checkpointing:
        model.train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    found, ours = run(model, ROWS)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=2e-5)
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, atol=1e-4, rtol=1e-4, msg=name)


def test_borders_are_those_of_flash_attention() -> None:
    model = make_model(LLAMA, "sdpa")
    _, positions = packed(ROWS)
    assert segment_arguments(model, positions) == {}  # transformers' sdpa finds them in the positions
    assert use_segment_attention(model)
    found = segment_arguments(model, positions)
    assert found["cu_seq_lens_q"].tolist() == [0, 5, 14, 16, 27, 32, 35, 38, 48]
    assert found["cu_seq_lens_q"].dtype == torch.int32
    assert found["max_length_q"] == 11


def test_models_that_take_no_borders_keep_transformers_attention() -> None:
    bloom = {"model_type": "bloom", "hidden_size": 32, "n_layer": 1, "n_head": 4}
    for fields, attention in ((bloom, "eager"), (LLAMA, "eager"), (LLAMA | {"model_type": "stablelm"}, "sdpa")):
        model = make_model(fields, attention)
        assert not use_segment_attention(model)
        assert model.config._attn_implementation == attention


@pytest.mark.parametrize(
    "extra",
    [{"cu_seq_lens_q": None}, {"softcap": 5.0}, {"s_aux": torch.zeros(4)}, {"is_causal": False}],
)
def test_what_it_does_not_compute_is_refused(extra: dict[str, Any]) -> None:
    q = torch.randn(1, 4, 6, 8)
    borders = torch.tensor([0, 2, 6], dtype=torch.int32)
    segment_attention(nn.Identity(), q, q, q, None, cu_seq_lens_q=borders)
    with pytest.raises(ModelError, match="segment attention"):
        segment_attention(nn.Identity(), q, q, q, None, **({"cu_seq_lens_q": borders} | extra))
    with pytest.raises(ModelError, match="attention_mask"):
        segment_attention(nn.Identity(), q, q, q, torch.ones(1, 1, 6, 6), cu_seq_lens_q=borders)


def test_no_mask_is_built() -> None:
    """transformers builds a mask for the backends it knows; here every layer must get none."""
    model = make_model(LLAMA, "sdpa")
    assert use_segment_attention(model)
    seen: list[Any] = []
    model.base_model.layers[0].self_attn.register_forward_pre_hook(  # type: ignore[union-attr,operator]
        lambda module, args, kwargs: seen.append(kwargs["attention_mask"]), with_kwargs=True
    )
    run(model, ROWS)
    assert seen == [None]
    assert model.config._attn_implementation == SEGMENTS
