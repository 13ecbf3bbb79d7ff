"""Held-out loss of a model in memory, exact by token. Owns the sum and its divisor; not what a target is.

Of a pair of answers the preferred one counts, of judged ones those that are wanted: the likelihood of a rejected
answer is nothing to be good at.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

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
from raysft.recipe.columns import WANTED


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


class RowLoss(NamedTuple):
    """What a row adds to a held-out loss; of numbers, so that a task can hand it on."""

    nll: float
    """Weighted sum of -log p over its target tokens, nats."""
    weight: float
    """Sum of their weights."""
    target_tokens: int
    of_pairs: bool
    """It holds pairs, of which the preferred answers count."""


def held_out_loss(
    model: PreTrainedModel, store: TokenStore, *, max_rows: int, forward: Forward | None = None
) -> HeldOut:
    """Loss over the first max_rows rows of a token store. Raises DataError when they hold no target token."""
    return loss_of_rows(row_losses(model, store, range(min(max_rows, store.num_rows)), forward))


def row_losses(
    model: PreTrainedModel, store: TokenStore, rows: Iterable[int], forward: Forward | None = None
) -> list[RowLoss]:
    """What each of these rows of a token store adds, a row at a time, on the model's device.

    Samples of a row that would see each other in it are computed each in a row of its own, whatever they were trained
    in. forward: what turns rows into hidden states; None: the model alone.
    """
    hidden_states = PlainForward(model) if forward is None else forward
    packing = keeps_samples_apart(model)
    was_training = model.training
    model.train(False)
    found = []
    judged = tuple(field for field in store.fields if field.name == WANTED.name)
    for index in rows:
        whole = collate(store.read_rows([index]), index, packing=packing, fields=judged)
        batch = preferred(whole)
        wanted = batch.labels != IGNORE
        weight = float(batch.weights[wanted].sum(dtype="float64"))
        found.append(RowLoss(_nll(model, hidden_states, batch), weight, int(wanted.sum()), batch is not whole))
    model.train(was_training)
    return found


def loss_of_rows(rows: Sequence[RowLoss]) -> HeldOut:
    """The loss over all of these rows, summed in their order. Raises DataError when they hold no target token."""
    nll, weight = sum(row.nll for row in rows), sum(row.weight for row in rows)
    if not weight:
        raise _nothing_to_evaluate(len(rows))
    interval = ratio_interval([(row.nll, row.weight) for row in rows])
    return HeldOut(nll / weight, sum(row.target_tokens for row in rows), any(row.of_pairs for row in rows), *interval)


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
        raise _nothing_to_evaluate(store.num_rows)
    return Targets(tokens, weight)


def _nothing_to_evaluate(num_rows: int) -> DataError:
    return DataError(
        "there is nothing to evaluate on",
        got=f"{num_rows} held-out rows without a target token",
        expected="at least one answer that is trained on",
        fix="check data.eval or data.eval_fraction; `raysft preview` shows what is trained",
    )


def preferred(batch: MicroBatch) -> MicroBatch:
    """The batch with the targets of the first sample of each atom alone, and of no answer that is not wanted; itself
    where atoms are single samples that nobody judged."""
    is_other = np.zeros(len(batch.atom_of) + 1, np.bool_)  # the last one: padding
    is_other[1:-1] = batch.atom_of[1:] == batch.atom_of[:-1]
    if WANTED.name in batch.fields:
        is_other[:-1] |= batch.fields[WANTED.name][batch.atom_of] == 0
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
