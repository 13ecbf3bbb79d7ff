"""The loss primitives: log-probabilities of the target tokens, the LM head computed only at them, in chunks.

Shapes: B rows, T tokens a row, D hidden size, V vocabulary, N targets in the micro-batch. All of it runs inside
the wrapped module's forward: under ZeRO-3 the head's weight is empty outside.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from raysft.model.decoder import decoder
from raysft.model.encoder import head_of_encoder
from raysft.model.fast.attention import Borders, segment_arguments
from raysft.model.fast.log_probs import Choices, Likeliest, LogitShape
from raysft.model.fast.loss_head import LossHead, Targets, logit_shape
from raysft.model.fast.places import Places

IGNORE = -100
"""Label of a position that predicts nothing."""

CHUNK_TARGETS = 256
"""Targets whose logits exist at a time where the head is not a LossHead."""


@dataclass(frozen=True)
class OutputHead:
    """The LM head and what the model does to its output."""

    module: nn.Module
    shape: LogitShape


def output_head(model: PreTrainedModel) -> OutputHead:
    """The head of a model, adapters and all; of an encoder, which has none, what nobody reads."""
    module = nn.Identity() if head_of_encoder(model) is not None else model.get_output_embeddings()
    assert isinstance(module, nn.Module)
    return OutputHead(module, logit_shape(model.config))


def hidden_states(
    model: PreTrainedModel, input_ids: Tensor, position_ids: Tensor, borders: Borders | None = None
) -> Tensor:
    """What the head reads: [B, T, D].

    input_ids, position_ids: [B, T] int64. Positions restart at 0 where a segment starts (padding is one of its
    own): segment attention and flash attention get the borders as arguments, transformers' other backends find
    them in the positions, as long as no 2-D attention mask is passed. borders: those of the positions, where they
    are known.
    """
    segments = segment_arguments(model, position_ids, borders)
    hidden: Tensor = decoder(model)(input_ids=input_ids, position_ids=position_ids, use_cache=False, **segments)[0]
    return hidden


def embedded_states(
    model: PreTrainedModel, embeddings: Tensor, position_ids: Tensor, borders: Borders | None = None
) -> Tensor:
    """hidden_states of what need be no token: embeddings [B, T, D], as the embedding layer would give them."""
    segments = segment_arguments(model, position_ids, borders)
    found = decoder(model)(inputs_embeds=embeddings, position_ids=position_ids, use_cache=False, **segments)
    hidden: Tensor = found[0]
    return hidden


def weighted_nll(
    hidden: Tensor, head: OutputHead, labels: Tensor, weights: Tensor, wanted: Places | None = None
) -> Tensor:
    """Sum over the targets of weight * -log p(label | its segment so far): [] float32.

    hidden [B, T, D]; labels [B, T] int64, the token to predict AT a position or IGNORE; weights [B, T].
    wanted: where labels are not IGNORE; None: they are looked for. If it tells parts: a sum for each, [P], from a
    frozen head. The fast case of target_log_probs: a LossHead makes the gradients while it makes the sum.
    """
    wanted = Places.where(labels != IGNORE) if wanted is None else wanted
    if isinstance(head.module, LossHead):
        asked = Targets(wanted.of(labels), wanted.of(weights), head.shape, wanted.counts)
        sums: Tensor = head.module(wanted.of(hidden), asked)
        return sums
    nll = -target_log_probs(hidden, head, labels, wanted) * wanted.of(weights)
    return nll.sum() if wanted.counts is None else torch.stack([part.sum() for part in nll.split(wanted.counts)])


def target_log_probs(hidden: Tensor, head: OutputHead, labels: Tensor, wanted: Places | None = None) -> Tensor:
    """log p(label | its segment so far) at every position whose label is not IGNORE, row by row: [N] float32.

    hidden [B, T, D], labels [B, T]. wanted: those positions; None: they are looked for. See choice_log_probs.
    """
    wanted = Places.where(labels != IGNORE) if wanted is None else wanted
    return choice_log_probs(hidden, head, labels.unsqueeze(-1), wanted).squeeze(-1)


def smooth_log_probs(hidden: Tensor, head: OutputHead, labels: Tensor, wanted: Places) -> tuple[Tensor, Tensor]:
    """(target_log_probs, mean over all V tokens of log p at the same positions): [N] float32 each."""
    found = choice_log_probs(hidden, head, labels.unsqueeze(-1), wanted, with_mean=True)  # [N, 2]
    return found[:, 0], found[:, 1]


def choice_log_probs(
    hidden: Tensor, head: OutputHead, ids: Tensor, wanted: Places, *, with_mean: bool = False
) -> Tensor:
    """log p(token | its segment so far) of K tokens at each of N wanted positions, row by row: [N, K] float32.

    with_mean: [N, K + 1], the last of them the mean over all V tokens. hidden [B, T, D]; ids [B, T, K] int64.
    A chunk's logits are made again in backward and never kept. A LossHead does it in one forward;
    another head has one for each chunk, of which the ranks of ZeRO 3 would have to have the same number.
    """
    targets, chosen = wanted.of(hidden), wanted.of(ids)  # [N, D], [N, K]
    if isinstance(head.module, LossHead):
        found: Tensor = head.module(targets, Choices(chosen, head.shape, with_mean))
        return found
    if not len(chosen):  # the head runs all the same: every rank gathers its weight
        return _log_probs(head, targets, chosen, with_mean)
    chunks = zip(torch.split(targets, CHUNK_TARGETS), torch.split(chosen, CHUNK_TARGETS), strict=True)
    if not torch.is_grad_enabled():
        return torch.cat([_log_probs(head, *chunk, with_mean) for chunk in chunks])
    return torch.cat([checkpoint(_log_probs, head, *chunk, with_mean, use_reentrant=False) for chunk in chunks])


@torch.no_grad()
def likeliest_log_probs(hidden: Tensor, head: OutputHead, wanted: Places, k: int) -> Tensor:
    """log p of the k likeliest tokens at each of N wanted positions, the likeliest first: [N, k], no gradients."""
    targets = wanted.of(hidden)
    if isinstance(head.module, LossHead):
        found: Tensor = head.module(targets, Likeliest(k, head.shape))
        return found
    parts = [torch.log_softmax(logits_of(head, part), -1) for part in torch.split(targets, CHUNK_TARGETS)]
    return torch.cat([part.topk(min(k, part.shape[-1]), -1).values for part in parts])


def _log_probs(head: OutputHead, hidden: Tensor, ids: Tensor, with_mean: bool) -> Tensor:
    """[C, D], [C, K] -> [C, K] float32, or [C, K + 1]."""
    logits = logits_of(head, hidden)
    chosen = logits.gather(-1, ids)
    if with_mean:
        chosen = torch.cat([chosen, logits.mean(-1, keepdim=True)], -1)
    log_probs: Tensor = chosen - torch.logsumexp(logits, dim=-1, keepdim=True)
    return log_probs


def logits_of(head: OutputHead, hidden: Tensor) -> Tensor:
    """[C, D] -> [C, V] float32, as the model itself gives them, divided by the head's temperature."""
    raw = head.module(hidden)
    logits: Tensor = raw.to(torch.promote_types(raw.dtype, torch.float32))
    logits = logits * head.shape.scale if head.shape.scale != 1.0 else logits
    if head.shape.cap is not None:
        logits = head.shape.cap * torch.tanh(logits / head.shape.cap)
    return logits if head.shape.temperature == 1.0 else logits / head.shape.temperature
