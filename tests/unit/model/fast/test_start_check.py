"""The start-up check, which must be able to fail, and the way back to transformers' attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from families import FAMILIES, GEMMA2, LLAMA, V, make_model
from torch import Tensor, nn

from raysft.errors import ModelError
from raysft.model.fast import attention, start_check
from raysft.model.fast.attention import SEGMENTS
from raysft.model.fast.loss_head import LossHead
from raysft.model.fast.start_check import MORE_ROUNDING, check_isolation, more_rounding, use_fast_paths, use_precision

CASES = [(family, attention) for family in FAMILIES for attention in ("sdpa", "eager")]
CASES.remove(("gemma2", "sdpa"))  # refused by transformers: its attention has a soft cap


@pytest.mark.parametrize(("family", "attention"), CASES)
def test_models_that_keep_segments_apart_pass_the_check(family: str, attention: str) -> None:
    model = make_model(FAMILIES[family], attention)
    assert check_isolation(model, V) < 1e-4
    use_fast_paths(model, V)
    assert check_isolation(model, V) < 1e-4
    assert isinstance(model.get_output_embeddings(), LossHead)
    assert model.config._attn_implementation == (SEGMENTS if attention == "sdpa" else "eager")


def test_a_model_whose_segments_see_each_other_is_refused() -> None:
    model = make_model(LLAMA, "sdpa")
    body = model.model.forward

    def leaky(*, input_ids: Tensor, **others: Any) -> Any:
        """A mask of ones turns transformers' detection of packed segments off."""
        return body(input_ids=input_ids, **{**others, "attention_mask": torch.ones_like(input_ids)})

    model.model.forward = leaky
    assert check_isolation(model, V) > 1e-2
    assert check_isolation(model, V, packing=False) < 1e-4


def test_wrong_borders_are_noticed_and_sdpa_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def one_segment(model: Any, position_ids: Tensor, borders: Any) -> dict[str, Any]:
        found = attention.segment_arguments(model, position_ids)
        ends = (0, position_ids.numel())
        return found and found | {"cu_seq_lens_q": torch.tensor(ends), "segment_ends": ends}

    monkeypatch.setattr("raysft.model.fast.loss.segment_arguments", one_segment)
    model = make_model(LLAMA, "sdpa")
    use_fast_paths(model, V)
    assert model.config._attn_implementation == "sdpa"
    assert check_isolation(model, V) < 1e-4


def test_a_head_that_raysft_does_not_know_is_refused() -> None:
    model = make_model(GEMMA2, "eager")
    model.config.final_logit_softcapping = None  # now both agree: no cap
    assert check_isolation(model, V) < 1e-4
    plain = model.forward

    def scaled(*args: Any, **kwargs: Any) -> Any:
        output = plain(*args, **kwargs)
        output.logits = output.logits * 1.5
        return output

    model.forward = scaled  # type: ignore[method-assign]
    with pytest.raises(ModelError, match="by itself"):
        use_fast_paths(model, V)


def test_a_wrong_sum_is_noticed_where_the_log_probabilities_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training takes the fused sum, so the check must look at it too."""
    model = make_model(LLAMA, "sdpa")
    right = start_check.weighted_nll
    monkeypatch.setattr(start_check, "weighted_nll", lambda *args: right(*args) * 1.01)
    assert check_isolation(model, V) > 1e-2


def test_the_check_leaves_the_mode_and_the_generator_alone() -> None:
    model = make_model(LLAMA, "sdpa").train()
    state = torch.get_rng_state()
    use_fast_paths(model, V)
    assert model.training
    assert all(m.training for m in model.modules() if isinstance(m, nn.Module))
    assert torch.equal(torch.get_rng_state(), state)


def test_rotary_factors_that_follow_the_longest_position_are_found() -> None:
    """At 7 and 12 tokens Phi-3 rotates by its short factors; a token at position 99 turns all others."""
    rope = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "rope_theta": 10000.0}
    fields = LLAMA | {"model_type": "phi3", "original_max_position_embeddings": 64}
    fields |= {"rope_parameters": rope | {"original_max_position_embeddings": 64}}
    use_fast_paths(make_model(fields, "sdpa"), V, max_tokens=64)
    with pytest.raises(ModelError, match="longest position of a pass"):
        use_fast_paths(make_model(fields, "sdpa"), V, max_tokens=100)


def test_a_token_far_behind_changes_nothing_in_others() -> None:
    for fields in (LLAMA, GEMMA2, FAMILIES["tied"], FAMILIES["gpt2"]):
        start_check.refuse_shared_factors(make_model(fields), V, 60)


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_bf16_is_as_far_from_fp32_as_the_models_own(family: str, packing: bool) -> None:
    model = make_model(FAMILIES[family], "eager" if family == "gemma2" else "sdpa")
    use_fast_paths(model, V)
    attention_before = model.config._attn_implementation
    assert 0 < more_rounding(model, V, torch.bfloat16, packing=packing) < MORE_ROUNDING / 2
    use_precision(model, V, torch.bfloat16, packing=packing)
    assert model.config._attn_implementation == attention_before
    assert model.dtype == torch.float32


@pytest.mark.parametrize("wrong", ["borders", "scale", "nan"])
def test_a_kernel_that_is_wrong_in_bf16_alone_is_noticed(monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    """As a kernel of half precision may be, which fp32 never meets."""
    right = attention._one_by_one

    def kernel(query: Tensor, key: Tensor, value: Tensor, ends: Sequence[int], settings: Any) -> Tensor:
        if query.dtype == torch.bfloat16 and wrong == "borders":
            ends = (ends[0], ends[-1])
        if query.dtype == torch.bfloat16 and wrong == "scale":
            settings = (3.0, *settings[1:])
        answer = right(query, key, value, ends, settings)
        return answer * torch.nan if query.dtype == torch.bfloat16 and wrong == "nan" else answer

    monkeypatch.setattr(attention, "_one_by_one", kernel)
    model = make_model(LLAMA, "sdpa")
    use_fast_paths(model, V)
    assert model.config._attn_implementation == SEGMENTS, "in fp32 nothing is wrong"
    use_precision(model, V, torch.bfloat16)
    assert model.config._attn_implementation == "sdpa"


def test_a_head_that_is_wrong_in_bf16_alone_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    right = start_check.target_log_probs

    def wrong(hidden: Tensor, *others: Any) -> Tensor:
        return right(hidden, *others) * (1.5 if hidden.dtype == torch.bfloat16 else 1)

    monkeypatch.setattr(start_check, "target_log_probs", wrong)
    model = make_model(LLAMA, "sdpa")
    use_fast_paths(model, V)
    with pytest.raises(ModelError, match="in bfloat16"):
        use_precision(model, V, torch.bfloat16)
