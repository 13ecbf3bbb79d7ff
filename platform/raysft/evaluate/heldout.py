"""Held-out loss of a model in memory, exact by token. Owns the sum and its divisor; not what a target is.

Of a pair of answers the preferred one counts: the likelihood of a rejected answer is nothing to be good at.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from transformers import PreTrainedModel

from raysft.data.feed.collate import MicroBatch, collate
from raysft.data.store.parts import TokenStore
from raysft.errors import DataError
from raysft.metrics.estimate import ratio_interval
from raysft.model.fast.loss import IGNORE, output_head, target_log_probs
from raysft.model.methods import Forward, PlainForward
from raysft.model.twin import keeps_samples_apart


@dataclass(frozen=True)
class HeldOut:
    """Sum of -log p over the target tokens / their number, in nats; never a mean of means."""

    loss: float
    target_tokens: int
    of_pairs: bool = False
    """Rows hold pairs, of which the preferred answers count."""
    low: float | None = None
    """End of the loss's 95% interval, by bootstrap over rows; None: rows were not told apart, or are too few."""
    high: float | None = None


def perplexity_of(loss: float) -> float:
    """exp of a loss."""
    return math.exp(min(loss, 700.0))


def held_out_loss(
    model: PreTrainedModel, store: TokenStore, *, max_rows: int, forward: Forward | None = None
) -> HeldOut:
    """Loss over the first max_rows rows of a token store, a row at a time, on the model's device.

    Samples of a row that would see each other in it are computed each in a row of its own, whatever they were trained
    in. forward: what turns rows into hidden states; None: the model alone. Raises DataError when the rows hold no
    target token.
    """
    rows = PlainForward(model) if forward is None else forward
    packing = keeps_samples_apart(model)
    was_training = model.training
    model.train(False)
    nll, weight, target_tokens, of_pairs = 0.0, 0.0, 0, False
    parts: list[tuple[float, float]] = []
    for index in range(min(max_rows, store.num_rows)):
        whole = collate(store.read_rows([index]), index, packing=packing)
        batch = preferred(whole)
        of_pairs |= batch is not whole
        wanted = batch.labels != IGNORE
        parts.append((_nll(model, rows, batch), float(batch.weights[wanted].sum(dtype="float64"))))
        nll += parts[-1][0]
        weight += parts[-1][1]
        target_tokens += int(wanted.sum())
    model.train(was_training)
    if not weight:
        raise _nothing_to_evaluate(store)
    return HeldOut(nll / weight, target_tokens, of_pairs, *ratio_interval(parts))


@dataclass(frozen=True)
class Targets:
    """What a held-out loss is a mean over."""

    tokens: int
    weight: float
    """Sum of their weights."""


def count_targets(store: TokenStore, *, max_rows: int) -> Targets:
    """Those in the first max_rows rows, whose atoms are single samples. Raises DataError where there are none."""
    tokens, weight = 0, 0.0
    for index in range(min(max_rows, store.num_rows)):
        batch = collate(store.read_rows([index]), index, packing=True)
        wanted = batch.labels != IGNORE
        tokens += int(wanted.sum())
        weight += float(batch.weights[wanted].sum(dtype="float64"))
    if not weight:
        raise _nothing_to_evaluate(store)
    return Targets(tokens, weight)


def _nothing_to_evaluate(store: TokenStore) -> DataError:
    return DataError(
        "there is nothing to evaluate on",
        got=f"{store.num_rows} held-out rows without a target token",
        expected="at least one answer that is trained on",
        fix="check data.eval or data.eval_fraction; `raysft preview` shows what is trained",
    )


def preferred(batch: MicroBatch) -> MicroBatch:
    """The batch with the targets of the first sample of each atom alone; itself where atoms are single samples."""
    is_other = np.zeros(len(batch.atom_of) + 1, np.bool_)  # the last one: padding
    is_other[1:-1] = batch.atom_of[1:] == batch.atom_of[:-1]
    if not is_other.any():
        return batch
    return replace(batch, labels=np.where(is_other[batch.segment_of], IGNORE, batch.labels))


@torch.no_grad()
def _nll(model: PreTrainedModel, rows: Forward, batch: MicroBatch) -> float:
    """Weighted sum of -log p over the batch's targets, in float64."""
    arrays = (batch.input_ids, batch.position_ids, batch.labels, batch.weights)
    input_ids, position_ids, labels, weights = (torch.from_numpy(array).to(model.device) for array in arrays)
    hidden = rows.hidden_states(input_ids, position_ids)  # [B, T, D]
    log_probs = target_log_probs(hidden, output_head(model), labels)  # [N]
    return -float((log_probs.double() * weights[labels != IGNORE].double()).sum())
