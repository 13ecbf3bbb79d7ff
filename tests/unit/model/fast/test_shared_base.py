"""A base that trials share: one copy of its weights, each adapter on its own tokens, what cannot be shared."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fakes import LLAMA
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from raysft.errors import ModelError
from raysft.model.fast.attention import Borders
from raysft.model.fast.loss import hidden_states
from raysft.model.fast.shared_base import SharedBase, TrialRows
from raysft.model.fast.start_check import use_fast_paths
from raysft.model.methods import LowRank


def tiny(**changes: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    fields = {key: value for key, value in (LLAMA | {"vocab_size": 50} | changes).items() if key != "model_type"}
    model: PreTrainedModel = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **fields))
    use_fast_paths(model, 50)
    return model


def adapters(seed: int, size: int) -> dict[str, LowRank]:
    draw = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(shape, generator=draw) for shape in ((2, size), (size, 2)))
    return {"model.layers.1.self_attn.q_proj": LowRank(a.requires_grad_(), b.requires_grad_(), 0.5, 0.0)}


def piece(trial: int, lengths: tuple[int, ...]) -> TrialRows:
    draw = torch.Generator().manual_seed(trial)
    ids = torch.randint(0, 50, (1, sum(lengths)), generator=draw)
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    return TrialRows(trial, ids, positions, Borders.of(positions), torch.Generator())


@pytest.mark.parametrize("packing", [True, False], ids=["one row", "padded rows"])
def test_each_adapter_works_on_its_own_rows(packing: bool) -> None:
    """Against the model with that adapter added into its weight, alone."""
    model = tiny()
    pieces, own = [piece(0, (4, 3)), piece(1, (9,)), piece(2, (5,))], [adapters(i, 32) for i in range(2)]
    expected = []
    weight = model.get_parameter("model.layers.1.self_attn.q_proj.weight")
    for one, mine in zip(pieces, [*own, {}], strict=True):
        before = weight.detach().clone()
        with torch.no_grad():
            for adapter in mine.values():
                weight += adapter.scaling * adapter.b @ adapter.a
            expected.append(hidden_states(model, one.input_ids, one.position_ids))
            weight.copy_(before)
    base = SharedBase(model, packing=packing)
    for trial, mine in enumerate(own):
        base.attach(trial, mine)
    found = base.hidden(pieces)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)
    a = own[0]["model.layers.1.self_attn.q_proj"].a
    assert torch.autograd.grad(found[1].sum(), a, retain_graph=True, allow_unused=True)[0].abs().max() == 0
    assert torch.autograd.grad(found[0].square().sum(), a)[0].abs().max() > 0
    base.detach(0)
    assert not torch.allclose(base.hidden(pieces)[0], expected[0], atol=1e-3)


def test_there_is_one_copy_of_the_weights() -> None:
    base = SharedBase(tiny(), packing=True)
    theirs = {p.data_ptr() for p in base.model.parameters()}
    for blank in (base.blank(), base.blank()):
        assert {p.data_ptr() for p in blank.parameters()} == theirs
        assert not any(p.requires_grad for p in blank.parameters())


def test_a_base_with_dropout_and_an_adapted_head_are_refused() -> None:
    with pytest.raises(ModelError, match="dropout of its own"):
        SharedBase(tiny(attention_dropout=0.1), packing=True)
    base = SharedBase(tiny(), packing=True)
    with pytest.raises(ModelError, match="cannot adapt this layer"):
        base.attach(0, {"lm_head": adapters(0, 32)["model.layers.1.self_attn.q_proj"]})
