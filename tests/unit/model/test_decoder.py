"""Where a text is read in a model: of every family what its head reads, and the towers that no text passes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from families import FAMILIES, make_model, tiny_fields
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from raysft.errors import ModelError
from raysft.model.decoder import decoder, unread


def made(model_type: str) -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(AutoConfig.for_model(**tiny_fields(model_type)))
    return model.eval()


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "llama4_text", "gemma3", "mamba", "opt"])
def test_it_gives_what_the_head_reads(model_type: str) -> None:
    model, read = made(model_type), []
    head: Any = model.get_output_embeddings()
    head.register_forward_pre_hook(lambda _, given: read.append(given[0]))
    ids = torch.arange(1, 7)[None]
    with torch.no_grad():
        model(input_ids=ids)
        hidden = decoder(model)(input_ids=ids)[0]
    if hidden.shape != read[0].shape:  # OPT's is projected inside; else it is the same tensor
        pytest.fail(f"{hidden.shape}, the head reads {read[0].shape}")
    torch.testing.assert_close(hidden, read[0])


def test_towers_are_told_and_nothing_that_text_passes() -> None:
    model = made("gemma3")
    found = unread(model)
    assert any("vision" in name for name in found)
    outside = {id(p) for module in found.values() for p in module.parameters()}
    model(input_ids=torch.arange(1, 7)[None]).logits.sum().backward()
    got = {id(p) for p in model.parameters() if p.grad is not None}
    assert got.isdisjoint(outside)
    assert {id(p) for p in model.parameters()} == got | outside


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_model_has_no_towers(family: str) -> None:
    assert unread(make_model(FAMILIES[family])) == {}


def test_a_model_whose_decoder_is_not_found_is_told_with_its_parts() -> None:
    class Odd(PreTrainedModel):
        config_class = type(make_model(FAMILIES["llama"]).config)
        base_model_prefix = "nowhere"

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.left, self.right = nn.Linear(2, 2), nn.Linear(2, 2)

    with pytest.raises(ModelError, match="does not find the decoder") as caught:
        decoder(Odd(make_model(FAMILIES["llama"]).config))
    assert caught.value.got == "a Odd with left, right"
