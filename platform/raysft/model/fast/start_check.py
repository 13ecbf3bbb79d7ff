"""Is what raysft computes what the model computes? The start-up check, and the fast paths that must pass it."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from raysft.errors import ModelError
from raysft.model.encoder import head_of_encoder
from raysft.model.fast.attention import SEGMENTS, use_segment_attention
from raysft.model.fast.liger import use_liger
from raysft.model.fast.loss import IGNORE, hidden_states, output_head, target_log_probs, weighted_nll
from raysft.model.fast.loss_head import install_loss_head
from raysft.model.fast.onednn_linear import use_products
from raysft.model.fast.rotary import use_rotation
from raysft.model.fast.ulysses import ULYSSES

logger = logging.getLogger(__name__)

HiddenStates = Callable[[PreTrainedModel, Tensor, Tensor], Tensor]
"""(model, input_ids [B, T], position_ids [B, T]) -> [B, T, D]."""

OWN_ATTENTION = (SEGMENTS, ULYSSES)
"""Attention that is checked against transformers' own."""

TOLERANCE = 1e-4
"""Largest difference of fp32 log-probabilities between a packed and an unpacked segment."""

MORE_ROUNDING = 4.0
"""In a precision of training: how much further from fp32 packed segments may be than transformers has them alone."""


def use_fast_paths(
    model: PreTrainedModel, vocab_size: int, *, packing: bool = True, max_tokens: int | None = None
) -> None:
    """Liger's kernels, oneDNN, rotation without copies, the loss in the head, segment attention, where they can be.

    check_isolation must agree; the rotation is compared by itself. max_tokens: of the longest row.

    An encoder's classifier is left as it is: its own forward trains it.
    Raises ModelError when the model does not even pass with transformers' own attention.
    """
    if head_of_encoder(model) is not None:
        return
    use_liger(model)
    use_products(model)
    use_rotation(model)
    if max_tokens is not None:
        refuse_shared_factors(model, vocab_size, max_tokens)
    install_loss_head(model)
    if use_segment_attention(model):
        try:
            difference = check_isolation(model, vocab_size, packing=packing)
        except ModelError as error:
            reason = error.got
        else:
            if difference <= TOLERANCE:
                return
            reason = f"log-probabilities differ by {difference:.2g}"
        logger.warning("segment attention is not right for %s (%s): sdpa", model.config.model_type, reason)
        model.set_attn_implementation("sdpa")
    refuse_leaks(model, check_isolation(model, vocab_size, packing=packing), f"data.packing = {packing}")


def use_paths_of(model: PreTrainedModel, twin: PreTrainedModel) -> None:
    """Fast paths for a model whose weights are not there yet: those that its twin has and was checked with."""
    use_liger(model, checked=False)
    use_products(model)
    use_rotation(model)
    install_loss_head(model)
    model.set_attn_implementation(twin.config._attn_implementation)


def use_precision(model: PreTrainedModel, vocab_size: int, dtype: torch.dtype, *, packing: bool = True) -> None:
    """Ask the kernels that train, which on GPUs are not those of fp32: sdpa where segments are wrong in a precision.

    Changes the attention of the model only, which is in fp32. Raises ModelError when sdpa is wrong in that precision.
    """
    found = more_rounding(model, vocab_size, dtype, packing=packing)
    name = str(dtype).removeprefix("torch.")
    if not found <= MORE_ROUNDING and model.config._attn_implementation == SEGMENTS:
        what = f"in {name} {found:.2g} times as far from fp32 as without packing"
        logger.warning("segment attention is not right for %s (%s): sdpa", model.config.model_type, what)
        model.set_attn_implementation("sdpa")
        found = more_rounding(model, vocab_size, dtype, packing=packing)
    if not found <= MORE_ROUNDING:
        raise ModelError(
            f"raysft does not compute in {name} what this model ({model.config.model_type}) computes by itself",
            got=f"log-probabilities {found:.2g} times as far from fp32, data.packing = {packing}",
            expected=f"at most {MORE_ROUNDING:g} times: packed samples that do not see each other, the same head",
            fix="set train.precision: fp32, data.packing: false or another model.attention",
        )


def more_rounding(model: PreTrainedModel, vocab_size: int, dtype: torch.dtype, *, packing: bool = True) -> float:
    """check_isolation in another precision: how far training is from the model's own fp32, over how far transformers'
    attention and head are, each segment alone. Rounding has no fixed size, but both have the same.

    Medians over the tokens: a router that rounding turns to another expert makes a single token far.
    """
    exact = log_probs_alone(model, vocab_size)
    rounded = copy.deepcopy(model)
    nn.Module.to(rounded, dtype)
    alone, (ours, _) = log_probs_alone(rounded, vocab_size), _as_trained(rounded, vocab_size, packing, hidden_states)
    least = torch.finfo(dtype).eps * exact.abs().median()  # what is exact by chance is no measure
    return float((ours - exact).abs().median() / torch.maximum((alone - exact).abs().median(), least))


def refuse_leaks(model: PreTrainedModel, difference: float, setting: str) -> None:
    """Raises ModelError where check_isolation found too much. setting: what it was found under."""
    if not difference <= TOLERANCE:
        raise ModelError(
            f"raysft does not compute what this model ({model.config.model_type}) computes by itself",
            got=f"log-probabilities that differ by {difference:.2g}, {setting}",
            expected=f"at most {TOLERANCE:g}: packed samples that do not see each other, the same head",
            fix="set data.packing: false, or another model.attention; if it stays, report the model type",
        )


def refuse_shared_factors(model: PreTrainedModel, vocab_size: int, max_tokens: int) -> None:
    """Raises ModelError where a token far behind changes what is computed of the tokens before it.

    So it is with rotary factors that follow the longest position of a pass (longrope, dynamic NTK): the loss of a
    sample would depend on what is in the pass with it.
    """
    segment = _segments(model, vocab_size)[0]
    positions = torch.arange(segment.shape[1], device=segment.device)[None]
    far = torch.cat([positions[:, :-1], positions.new_tensor([[max_tokens - 1]])], dim=1)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        near, apart = (hidden_states(model, segment, where)[:, :-1] for where in (positions, far))
    model.train(was_training)
    difference = float((near - apart).abs().max())
    if not difference <= TOLERANCE * max(1.0, float(near.abs().max())):
        raise ModelError(
            "this model's rotary factors depend on the longest position of a pass",
            got=f"hidden states that differ by {difference:.2g} with a token at position {max_tokens - 1:,}",
            expected="factors that are the same for every pass: one sample, one loss",
            fix="lower data.max_tokens to the length that the model was first trained at",
        )


def check_isolation(
    model: PreTrainedModel,
    vocab_size: int,
    *,
    packing: bool = True,
    hidden: HiddenStates = hidden_states,
    alone: Tensor | None = None,
) -> float:
    """Do segments in one row see each other, and is our head the model's own?

    Compares log-probabilities of two random segments, packed in a row (packing=False: each in its own), through
    the attention and the loss that training uses, with those of transformers' own forward on each alone. Returns
    the largest difference of a token's log-probability, and of the loss per token.
    hidden: how training computes. alone: log_probs_alone of the model before its layers were cut.
    """
    theirs = log_probs_alone(model, vocab_size) if alone is None else alone
    ours, total = _as_trained(model, vocab_size, packing, hidden)
    weights = torch.cat([_weights(ours[: s.shape[1] - 1]) for s in _segments(model, vocab_size)])
    fused = (total + (theirs * weights).sum()) / weights.sum()
    return float(torch.maximum((ours - theirs).abs().max(), fused.abs()))


def _as_trained(
    model: PreTrainedModel, vocab_size: int, packing: bool, hidden: HiddenStates
) -> tuple[Tensor, Tensor]:
    """(log-probabilities of each segment's tokens but its first, weighted sum of all) as training computes them."""
    segments, was_training = _segments(model, vocab_size), model.training
    model.eval()
    with torch.no_grad():
        rows = [segments] if packing else [[segment] for segment in segments]
        answers = [_row(model, row, hidden) for row in rows]
    model.train(was_training)
    return torch.cat([found for found, _ in answers]), torch.stack([total for _, total in answers]).sum()


def log_probs_alone(model: PreTrainedModel, vocab_size: int, through: nn.Module | None = None) -> Tensor:
    """Log-probabilities of each segment's tokens but its first by transformers' own attention and head.

    through: what computes instead of the model itself, a library's adapter around it; it may have tokens of its own
    before the segment's.
    """
    answer = model if through is None else through
    ours, was_training = model.config._attn_implementation, model.training
    if ours in OWN_ATTENTION:
        model.set_attn_implementation("sdpa")
    model.eval()
    found = []
    with torch.no_grad():
        for segment in _segments(model, vocab_size):
            logits = answer(input_ids=segment, use_cache=False).logits[:, -segment.shape[1] :]
            log_probs = logits.float().log_softmax(-1)
            found.append(log_probs[0, :-1].gather(-1, segment[0, 1:, None]).squeeze(-1))
    model.train(was_training)
    if ours in OWN_ATTENTION:
        model.set_attn_implementation(ours)
    return torch.cat(found)


def _segments(model: PreTrainedModel, vocab_size: int) -> list[Tensor]:
    """Two random segments, always the same: [1, n]."""
    generator = torch.Generator().manual_seed(0)
    device = next(model.parameters()).device
    return [torch.randint(0, vocab_size, (1, n), generator=generator).to(device) for n in (7, 12)]


def _weights(like: Tensor) -> Tensor:
    """Different weights for the targets of a segment: [n]."""
    return torch.linspace(0.5, 1.5, len(like), device=like.device)


def _row(model: PreTrainedModel, segments: list[Tensor], hidden_of: HiddenStates) -> tuple[Tensor, Tensor]:
    """(log-probabilities, weighted sum) of segments [1, n] in one row, every token but each first a target."""
    positions = torch.cat([torch.arange(s.shape[1], device=s.device) for s in segments]).unsqueeze(0)
    ends = [torch.full_like(s[:, :1], IGNORE) for s in segments]
    labels = torch.cat([part for s, end in zip(segments, ends, strict=True) for part in (s[:, 1:], end)], dim=1)
    weights = torch.cat([part for s in segments for part in (_weights(s[0, 1:]), torch.zeros(1, device=s.device))])
    hidden, head = hidden_of(model, torch.cat(segments, dim=1), positions), output_head(model)
    return target_log_probs(hidden, head, labels), weighted_nll(hidden, head, labels, weights[None])
