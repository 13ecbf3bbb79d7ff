"""target_log_probs against transformers' own forward on padded rows, and the start-up check that can fail."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from fakes import GEMMA2, LLAMA
from raysft.model.loss import IGNORE, check_isolation, target_log_probs

V = 97
COHERE = {k: v for k, v in LLAMA.items() if k != "tie_word_embeddings"} | {
    "model_type": "cohere",
    "logit_scale": 0.25,
}
GRANITE = LLAMA | {"model_type": "granite", "logits_scaling": 4.0}
GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
QWEN3 = LLAMA | {"model_type": "qwen3", "head_dim": 8}
FAMILIES = {"llama": LLAMA, "gemma2": GEMMA2, "cohere": COHERE, "granite": GRANITE, "gpt2": GPT2, "qwen3": QWEN3}
CASES = [(family, attention) for family in FAMILIES for attention in ("sdpa", "eager")]
CASES.remove(("gemma2", "sdpa"))  # refused by transformers: its attention has a soft cap


def make_model(fields: dict[str, Any], attention: str = "sdpa") -> PreTrainedModel:
    torch.manual_seed(0)
    fields = dict(fields) | {"vocab_size": V, "initializer_range": 0.2, "pad_token_id": 0}
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    return model.eval()


def alone(model: PreTrainedModel, segment: Tensor) -> Tensor:
    """log p of each token but the first, the segment by itself, padded on the right under an attention mask."""
    padded = torch.cat([segment, torch.zeros(5, dtype=torch.long)])[None]
    mask = torch.cat([torch.ones(len(segment)), torch.zeros(5)])[None].long()
    logits = model(input_ids=padded, attention_mask=mask, use_cache=False).logits[0].double()
    return torch.stack([logits[t - 1].log_softmax(-1)[segment[t]] for t in range(1, len(segment))])


def packed(rows: list[list[Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Segments side by side in rows, padded; every token but a segment's first is a target."""
    width = max(sum(map(len, row)) for row in rows)
    ids, positions = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
    labels = torch.full((len(rows), width), IGNORE)
    for b, row in enumerate(rows):
        start = 0
        for segment in row:
            end = start + len(segment)
            ids[b, start:end], positions[b, start:end] = segment, torch.arange(len(segment))
            labels[b, start : end - 1] = segment[1:]
            start = end
        positions[b, start:] = torch.arange(width - start)
    return ids, positions, labels


@pytest.mark.parametrize(("family", "attention"), CASES)
def test_packed_rows_give_the_log_probabilities_of_each_segment_alone(family: str, attention: str) -> None:
    model = make_model(FAMILIES[family], attention)
    generator = torch.Generator().manual_seed(7)
    rows = [
        [torch.randint(1, V, (n,), generator=generator) for n in lengths] for lengths in ([5, 9, 2], [11], [3, 3])
    ]
    with torch.no_grad():
        found = target_log_probs(model, *packed(rows))
        expected = torch.cat([alone(model, segment) for row in rows for segment in row])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, atol=2e-5, rtol=2e-5)


def test_only_labelled_positions_are_answered_row_by_row() -> None:
    model = make_model(LLAMA)
    ids = torch.arange(1, 13).reshape(2, 6)
    positions = torch.arange(6).expand(2, 6)
    labels = torch.full((2, 6), IGNORE)
    labels[1, 1], labels[0, 4], labels[1, 5] = 33, 44, 55
    with torch.no_grad():
        found = target_log_probs(model, ids, positions, labels)
        log_probs = model(input_ids=ids).logits.log_softmax(-1)
    expected = torch.stack([log_probs[0, 4, 44], log_probs[1, 1, 33], log_probs[1, 5, 55]])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_gradients_are_those_of_cross_entropy() -> None:
    model = make_model(LLAMA)
    ids = torch.randint(1, V, (2, 8), generator=torch.Generator().manual_seed(1))
    labels = torch.cat([ids[:, 1:], torch.full((2, 1), IGNORE)], dim=1)
    labels[0, :3] = IGNORE
    (-target_log_probs(model, ids, torch.arange(8).expand(2, 8), labels).sum()).backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    logits = model(input_ids=ids).logits
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum").backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("family", "attention"), CASES)
def test_models_that_keep_segments_apart_pass_the_check(family: str, attention: str) -> None:
    assert check_isolation(make_model(FAMILIES[family], attention), V) < 1e-4


def test_a_model_whose_segments_see_each_other_fails_the_check() -> None:
    model = make_model(LLAMA)
    body = model.model.forward

    def leaky(*, input_ids: Tensor, **others: Any) -> Any:
        """A mask of ones turns transformers' detection of packed segments off."""
        return body(input_ids=input_ids, **{**others, "attention_mask": torch.ones_like(input_ids)})

    model.model.forward = leaky
    assert check_isolation(model, V) > 1e-2
    assert check_isolation(model, V, packing=False) < 1e-4


def test_a_head_that_raysft_does_not_know_fails_the_check() -> None:
    model = make_model(GEMMA2, "eager")
    model.config.final_logit_softcapping = None  # now both agree: no cap
    assert check_isolation(model, V) < 1e-4
    plain = model.forward

    def scaled(*args: Any, **kwargs: Any) -> Any:
        output = plain(*args, **kwargs)
        output.logits = output.logits * 1.5
        return output

    model.forward = scaled  # type: ignore[method-assign]
    assert check_isolation(model, V) > 1e-2


def test_the_check_leaves_the_mode_and_the_generator_alone() -> None:
    model = make_model(LLAMA).train()
    state = torch.get_rng_state()
    check_isolation(model, V)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
