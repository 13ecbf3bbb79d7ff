"""Contrastive learning of text embeddings (InfoNCE: van den Oord et al. 2018, arXiv:1807.03748; with the texts of the
other queries as those that do not match: Henderson et al. 2017, arXiv:1705.00652).

A query q costs -log of exp(q.p / t) over the sum of exp(q.c / t), where vectors have length 1, p is the text that
matches it and c all texts of the global step, whichever micro-batch and rank has them. Left out of the sum are texts
that would be called wrong and are not: another copy of p, a text that is the query's own, one that matches an equal
query. The loss is the mean over the queries.

An atom is a query, the text that matches it, and any number that do not. The gradient with respect to each vector
comes from the whole step (GradCache: Gao et al. 2021, arXiv:2101.06983); a pass with gradients takes it on.

Shapes: S samples of a micro-batch, N of the step, Q queries, C texts, D numbers of a vector.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from raysft.objectives.base import Term
from raysft.objectives.batch import DeviceBatch
from raysft.objectives.objective import Counted, Loss, Objective, StepSamples, WholeStep
from raysft.objectives.view import View
from raysft.recipe.columns import Field
from raysft.recipe.sections.embedding_objectives import ContrastiveObjective
from raysft.recipe.sections.objective import ObjectiveSection

COST = Field("step_cost", "atom", "<f4")
"""What a query costs."""
RIGHT = Field("step_right", "atom", "<f4")
"""1: the text that matches a query is nearest to it; 0: another one is."""
RANK = Field("step_rank", "atom", "<f4")
"""Place of the nearest text that matches a query among all different texts, from 1 on; 0: an equal query has it."""
SLOPE = Field("step_slope", "segment", "<f4")
"""The gradient of the sum of all costs with respect to a sample's vector, [S, D]."""

_QUERIES = 1024
"""Queries whose similarities to all texts are in memory at a time."""


def make(section: ObjectiveSection) -> Objective:
    """The objective of a recipe's section."""
    assert isinstance(section, ContrastiveObjective)
    contrastive = section

    def loss(view: View, batch: DeviceBatch) -> Loss:
        vectors = view.vectors(contrastive.pooled_by(is_encoder=view.is_encoder))  # [S, D]
        slope = view.total((vectors * batch.fields[SLOPE.name]).sum(-1), "segment")
        costs = view.total(batch.fields[COST.name], "atom")
        sums = {"contrastive": costs + (slope - slope.detach())}
        counts = view.total(_counts(batch.fields[RANK.name]), "atom")
        return Loss(sums, {"accuracy": view.mean(batch.fields[RIGHT.name], "atom")}, vectors.detach(), counts)

    return Objective(
        terms=(Term("contrastive", "atom"),),
        loss=loss,
        metrics=("accuracy",),
        counted=Counted(("recall_at_1", "recall_at_10", "mrr"), 4, _measures),
        whole_step=WholeStep(
            (COST, RIGHT, RANK, SLOPE), lambda samples: compare(samples, contrastive.temperature), ranks
        ),
    )


def _counts(places: Tensor) -> Tensor:
    """[A, 4]: is there a rank, is it 1, is it at most 10, its reciprocal. places [A]."""
    there = places > 0
    columns = (there, places == 1, there & (places <= 10), torch.where(there, 1 / places.clamp(min=1), 0.0))
    return torch.stack([column.float() for column in columns], -1)


def _measures(sums: Sequence[float]) -> dict[str, float]:
    """As evaluate/retrieval.py has them, of the exported model."""
    queries, first, tenth, reciprocal = sums
    if not queries:
        return {}
    return {"recall_at_1": first / queries, "recall_at_10": tenth / queries, "mrr": reciprocal / queries}


def ranks(samples: StepSamples) -> dict[str, Tensor]:
    """{RANK: [A]}: each different query among all different texts, as evaluate/retrieval.py ranks them. A text as
    near as the right one counts as nearer; a text that is the query's own is none."""
    first, device = samples.is_first, samples.keys.device
    atom_of = first.long().cumsum(0) - 1
    second = torch.cat([first.new_zeros(1), first[:-1]]) & ~first  # of the text that matches
    keys, text_of = torch.unique(samples.keys[~first], return_inverse=True)
    texts = samples.vectors[~first][_first_places(text_of, len(keys))]  # [U, D]
    asked, query_of = torch.unique(samples.keys[first], return_inverse=True)
    matching = torch.zeros(len(asked), len(keys), dtype=torch.bool, device=device)
    matching[query_of[atom_of[second]], text_of[((~first).long().cumsum(0) - 1)[second]]] = True
    found = torch.zeros(len(query_of), device=device)
    places = _first_places(query_of, len(asked))
    answered = torch.nonzero(matching.any(1)).flatten()
    for numbers in torch.split(answered, _QUERIES) if len(answered) else ():
        right = matching[numbers]
        similar = samples.vectors[first][places[numbers]] @ texts.T
        nearest = similar.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
        wrong = ~right & (keys[None] != asked[numbers, None])
        found[places[numbers]] = 1.0 + ((similar >= nearest) & wrong).sum(1)
    return {RANK.name: found}


def _first_places(number_of: Tensor, count: int) -> Tensor:
    """[count]: where each number first stands. number_of [N] of 0..count - 1."""
    places = torch.arange(len(number_of), device=number_of.device)
    return places.new_full((count,), len(number_of)).scatter_reduce(0, number_of, places, "amin")


def compare(samples: StepSamples, temperature: float) -> dict[str, Tensor]:
    """{COST: [Q], RIGHT: [Q], SLOPE: [N, D]}: every query against all texts. One without a text of its own costs
    nothing."""
    first, place = samples.is_first, torch.arange(len(samples.is_first), device=samples.keys.device)
    second = torch.cat([first.new_zeros(1), first[:-1]]) & ~first  # [N], of the text that matches
    atom_of = first.long().cumsum(0) - 1
    queries, texts = samples.vectors[first], samples.vectors[~first]
    asked, found = samples.keys[first], samples.keys[~first]
    own = torch.full((len(queries),), -1, device=place.device)  # [Q], its text among the texts; -1: there is none
    own[atom_of[second]] = ((~first).long().cumsum(0) - 1)[second]
    asked_for = torch.where(second, asked[atom_of], samples.keys)[~first]  # [C], key of the query that it matches
    costs, right = queries.new_zeros(len(queries)), queries.new_zeros(len(queries))
    slopes = torch.zeros_like(samples.vectors)
    of_texts = torch.zeros_like(texts)
    with_text = torch.nonzero(own >= 0).flatten()
    for rows in torch.split(with_text, _QUERIES) if len(with_text) else ():
        column = own[rows, None]
        is_same = (found == found[column]) | (found == asked[rows, None]) | (asked_for == asked[rows, None])
        is_same.scatter_(1, column, value=False)
        logits = (queries[rows] @ texts.T / temperature).masked_fill(is_same, -torch.inf)
        log_probs = torch.log_softmax(logits, -1)  # [rows, C]
        costs[rows] = -log_probs.gather(1, column)[:, 0]
        right[rows] = (logits.argmax(-1) == own[rows]).float()
        errors = log_probs.exp().scatter_add(1, column, torch.full_like(logits[:, :1], -1.0)) / temperature
        slopes[place[first][rows]] = errors @ texts
        of_texts += errors.T @ queries[rows]
    slopes[~first] = of_texts
    return {COST.name: costs, RIGHT.name: right, SLOPE.name: slopes}
