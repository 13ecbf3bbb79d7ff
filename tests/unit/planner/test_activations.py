"""Activation bytes against Korthikanti et al. 2022 (arXiv:2205.05198), and the saving of a frozen layer."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fakes import LLAMA, make_recipe

from raysft.model.shape import read_shape
from raysft.planner.activations import ForwardPass, Training, layer, layer_bytes
from raysft.recipe.adapter_sizes import Kept

FULL = Training(weights=True)


def gpt(hidden: int, heads: int):
    config = {"model_type": "gpt2", "n_embd": hidden, "n_layer": 2, "n_head": heads, "n_positions": 4096}
    config |= {"activation_function": "gelu", "resid_pdrop": 0.1, "vocab_size": 300}
    return read_shape(make_recipe(model={"config": config}))


@pytest.mark.parametrize(("hidden", "heads"), [(12288, 96), (6144, 64), (1024, 16)])
@pytest.mark.parametrize("tensor", [1, 2, 8])
def test_korthikantis_equations_for_gpt(hidden: int, heads: int, tensor: int) -> None:
    """Equation 2: s b h (10 + 24/t + 5 a s / (h t)); with t = 1 it is equation 1. LayerNorm's own two numbers a
    token (16 bytes a layer) are ours: the paper leaves them out."""
    s, b = 2048, 4
    run = ForwardPass(b, s, s, working=2, attention="scores", tensor=tensor)
    paper = s * b * hidden * (10 + 24 / tensor + 5 * heads * s / (hidden * tensor))
    assert layer_bytes(gpt(hidden, heads), FULL, run) - 16 * s * b == pytest.approx(paper, rel=1e-12)


def test_flash_attention_drops_the_quadratic_term() -> None:
    """34 s b h and a log-sum-exp of 4 bytes for each head and token; twice the row is twice the bytes."""
    shape, run = gpt(1024, 16), ForwardPass(4, 2048, 2048, working=2, attention="varlen")
    once = layer_bytes(shape, FULL, run)
    assert once == 4 * 2048 * (34 * 1024 + 16 * 4 + 16)
    assert layer_bytes(shape, FULL, replace(run, row_tokens=4096, whole_row_tokens=4096)) == 2 * once


def test_sequence_parallel_ranks_keep_their_part_of_the_row() -> None:
    shape, run = gpt(1024, 16), ForwardPass(4, 2048, 2048, working=2, attention="varlen")
    exchanged = 4 * 512 * 1024 * 2  # attention's output for a part of the heads, besides that for a part of the row
    part = layer_bytes(shape, FULL, replace(run, row_tokens=512))
    assert (part - exchanged) * 4 == layer_bytes(shape, FULL, run)


def test_a_frozen_layer_keeps_no_inputs_but_those_of_its_adapters() -> None:
    shape = read_shape(make_recipe(model={"config": LLAMA | {"vocab_size": 300}}))
    run = ForwardPass(1, 64, 64, working=4, attention="varlen")
    frozen = {saved.name for saved in layer(shape, Training(weights=False), run)}
    assert not {name for name in frozen if name.startswith("input of")}
    assert "normalised" not in frozen
    lora = Training(weights=False, adapters=dict.fromkeys(("q_proj", "v_proj"), Kept(reads_input=True, width=4)))
    names = [saved.name for saved in layer(shape, lora, run)]
    assert names.count("input of q_proj") == 1  # shared with v_proj
    assert "input of v_proj" not in names
    assert {"adapter of q_proj", "adapter of v_proj"} <= set(names)
