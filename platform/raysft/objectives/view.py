"""How an objective sees the model: log-probabilities and sums, whoever shares rows, layers or the base with whom.

An objective is written once, as if one process had whole rows. Inside of the wrapped module's forward, where ZeRO 3
has the head's weight, the view gives it what the head says of the rows' hidden states, and adds up what it makes of
that: over the ranks that have parts of the same rows, and apart for trials that share a pass.

Shapes: B rows, T tokens a row (this rank's part of them), D hidden size, N chosen positions, K tokens at each,
S segments, A atoms, P trials.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from raysft.model.fast.loss import (
    OutputHead,
    choice_log_probs,
    likeliest_log_probs,
    smooth_log_probs,
    target_log_probs,
    weighted_nll,
)
from raysft.model.fast.places import Places
from raysft.model.fast.ulysses import SequenceGroup
from raysft.objectives.batch import DeviceBatch, Extent
from raysft.recipe.sections.embedding_objectives import Pooling

Per = Literal["segment", "atom"]
"""What there is one value of."""


@dataclass(frozen=True)
class View:
    """The model on one micro-batch."""

    hidden: Tensor
    """[B, T, D], what the head reads."""
    head: OutputHead
    batch: DeviceBatch
    """Labels, columns and borders of the same positions."""
    sequence: SequenceGroup | None = None
    """The ranks that have the other parts of these rows."""
    scorer: nn.Module | None = None
    """The objective's own head, [N, D] -> [N, numbers]; None: it has none."""
    given: Tensor | None = None
    """What an encoder's own head made of the samples, [S, numbers]; None: `scorer` is to do so."""
    pooled_by_head: Tensor | None = None
    """What that head made them of, [S, D]."""
    auxiliary: nn.Module | None = None
    """The objective's second head, [S, D] -> [S, outputs]; None: it has none."""
    is_encoder: bool = False
    """Does the model read texts from both sides?"""
    trials: Sequence[Extent] | None = None
    """What is whose, where trials share the pass; sums are then [P], else []."""

    def weighted_nll(self) -> Tensor:
        """Sum of weight * -log p over the trained tokens: [] or [P]. The fast case: no log-probability is kept."""
        batch = self.batch
        return weighted_nll(self.hidden, self.head, batch.labels, batch.weights, batch.known.trained)

    def log_probs(self) -> Tensor:
        """log p of the trained tokens, [N] float32, at the positions where labels are not IGNORE, row by row."""
        return target_log_probs(self.hidden, self.head, self.batch.labels, self.batch.known.trained)

    def smooth_log_probs(self) -> tuple[Tensor, Tensor]:
        """(log_probs, mean over the vocabulary of log p at the same positions): [N] float32 each."""
        return smooth_log_probs(self.hidden, self.head, self.batch.labels, self.batch.known.trained)

    def likeliest_log_probs(self, wanted: Places, k: int) -> Tensor:
        """log p of the k likeliest tokens at the wanted positions, [N, k] float32, without gradients."""
        return likeliest_log_probs(self.hidden, self.head, wanted, k)

    def choice_log_probs(self, ids: Tensor, wanted: Places, temperature: float = 1.0) -> Tensor:
        """log p of given tokens at a temperature, [N, K] float32. ids [B, T, K]."""
        head = replace(self.head, shape=replace(self.head.shape, temperature=temperature))
        return choice_log_probs(self.hidden, head, ids, wanted)

    def scores(self) -> Tensor:
        """What the objective's own head makes of each sample, of its last token, [S, numbers] float32."""
        if self.given is not None:
            return self.given.float()
        assert self.scorer is not None
        found: Tensor = self.scorer(self.pooled())
        return found.float()

    def pooled(self) -> Tensor:
        """What the head reads of each sample: the hidden state of its last token, or what an encoder's own head is
        given. [S, D], whoever has it."""
        if self.pooled_by_head is not None:
            return self.pooled_by_head
        lasts = self.batch.known.lasts
        states = self.hidden.new_zeros(len(self.batch.atom_of), self.hidden.shape[-1])
        states = states.index_add(0, lasts.of(self.batch.segment_of), lasts.of(self.hidden))
        return states if self.sequence is None else self.sequence.total(states)

    def vectors(self, pooling: Pooling) -> Tensor:
        """A vector of length 1 of each sample, [S, D] float32, whoever has its tokens. That of a mean is a sum's."""
        batch, count = self.batch, len(self.batch.atom_of)
        if pooling == "mean":
            segments = torch.where(
                batch.segment_of < 0, count, batch.segment_of
            ).flatten()  # padding: behind the last
            hidden = self.hidden.flatten(0, 1)
        else:
            chosen = batch.known.lasts if pooling == "last" else batch.known.firsts
            segments, hidden = chosen.of(batch.segment_of), chosen.of(self.hidden)
        states = self.hidden.new_zeros(count + 1, self.hidden.shape[-1], dtype=torch.float32)
        states = states.index_add(0, segments, hidden.float())[:count]
        return normalize(states if self.sequence is None else self.sequence.total(states), dim=-1)

    def per_segment(self, values: Tensor, wanted: Places) -> Tensor:
        """Sums of [N] values at the wanted positions over each segment, [S], whoever has its tokens."""
        count, segments = len(self.batch.atom_of), wanted.of(self.batch.segment_of)
        places = torch.where(segments < 0, count, segments)  # what is of no segment, in an empty micro-batch
        sums = values.new_zeros(count + 1).index_add(0, places, values)[:count]
        return sums if self.sequence is None else self.sequence.total(sums)

    def per_atom(self, values: Tensor) -> Tensor:
        """Sums of [S] values over each atom, [A]."""
        return values.new_zeros(self.batch.num_atoms).index_add(0, self.batch.atom_of, values)

    def total_at(self, values: Tensor, wanted: Places) -> Tensor:
        """Sum of [N] values at the wanted positions: [] or [P]. Of this rank's; the engine adds up the ranks."""
        return values.sum() if wanted.counts is None else self._split(values, wanted.counts)

    def total(self, values: Tensor, per: Per) -> Tensor:
        """Sum of [S, ...] or [A, ...] values: [...] or [P, ...]. Ranks that share rows know the same values: one of
        them counts."""
        if self.sequence is not None:
            values = values * (self.sequence.rank == 0)
        if self.trials is None:
            return values.sum(0)
        return self._split(values, [e.segments if per == "segment" else e.atoms for e in self.trials])

    def mean_at(self, values: Tensor, weights: Tensor, wanted: Places) -> tuple[Tensor, Tensor]:
        """(weighted sum, sum of the weights) of [N] values at the wanted positions, for a metric."""
        known = values.detach().float()
        return self.total_at(known * weights, wanted), self.total_at(weights.float(), wanted)

    def mean(self, values: Tensor, per: Per, wanted: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(sum, count) of [S] or [A] values, for a metric. wanted: which count, of the same shape; None: all."""
        known = values.detach().float()
        counts = torch.ones_like(known) if wanted is None else wanted.float()
        return self.total(known * counts, per), self.total(counts, per)

    def _split(self, values: Tensor, counts: Sequence[int]) -> Tensor:
        return torch.stack([part.sum(0) for part in torch.split(values, list(counts))])
