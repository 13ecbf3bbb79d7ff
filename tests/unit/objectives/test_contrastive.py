"""The costs and slopes of a step's vectors, beside torch's own cross-entropy and its gradients."""

from __future__ import annotations

import pytest
import torch
from fakes import make_recipe
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from raysft.objectives import contrastive
from raysft.objectives.contrastive import COST, RIGHT, SLOPE, compare
from raysft.objectives.module import make_objective
from raysft.objectives.objective import StepSamples


def samples(sizes: list[int], keys: list[int] | None = None) -> StepSamples:
    """Atoms of so many texts, with vectors by chance."""
    count = sum(sizes)
    vectors = normalize(torch.randn(count, 6, generator=torch.Generator().manual_seed(count)), dim=-1)
    is_first = torch.tensor([place == 0 for size in sizes for place in range(size)], dtype=torch.bool)
    return StepSamples(vectors, torch.tensor(keys or list(range(count)), dtype=torch.int64), is_first)


def by_torch(given: StepSamples, left_out: dict[int, set[int]], temperature: float) -> tuple[Tensor, Tensor]:
    """(cost of each query, gradients). left_out: {query: texts}, by their places among all samples."""
    vectors = given.vectors.clone().requires_grad_()
    queries = [place for place, first in enumerate(given.is_first.tolist()) if first]
    costs = []
    for query in queries:
        kept = [p for p in range(len(vectors)) if p not in queries and p not in left_out.get(query, ())]
        logits = vectors[kept] @ vectors[query] / temperature
        costs.append(cross_entropy(logits[None], torch.tensor([kept.index(query + 1)]), reduction="none"))
    told = torch.cat(costs)
    (gradient,) = torch.autograd.grad(told.sum(), vectors)
    return told.detach(), gradient


@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_costs_and_slopes_are_those_of_cross_entropy(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(contrastive, "_QUERIES", chunk)
    given = samples([2, 4, 3, 2])
    found = compare(given, 0.3)
    costs, slopes = by_torch(given, {}, 0.3)
    torch.testing.assert_close(found[COST.name], costs)
    torch.testing.assert_close(found[SLOPE.name], slopes)
    similar = given.vectors[given.is_first] @ given.vectors[~given.is_first].T
    assert found[RIGHT.name].tolist() == (similar.argmax(1) == torch.tensor([0, 1, 4, 6])).float().tolist()


def test_texts_that_are_called_wrong_and_are_not_are_left_out() -> None:
    """Places: 0 query, 1 its text; 2 query, 3 text, 4 wrong; 5 query, 6 text; 7 query, 8 text."""
    keys = [10, 11, 12, 11, 10, 10, 13, 14, 15]  # 3 is a copy of 1; 4 is query 0; 5 asks what 0 does
    given = samples([2, 3, 2, 2], keys)
    found = compare(given, 0.3)
    left_out = {0: {3, 4, 6}, 2: {1}, 5: {1, 4}}  # of query 5 not 3, which is a copy of 1
    costs, slopes = by_torch(given, left_out | {5: {1, 4}}, 0.3)
    torch.testing.assert_close(found[COST.name], costs)
    torch.testing.assert_close(found[SLOPE.name], slopes)


def test_a_query_without_a_text_costs_nothing() -> None:
    """As the largest batch that is tried before training has them."""
    for given in (samples([1, 1]), samples([])):
        found = compare(given, 0.3)
        assert found[COST.name].tolist() == [0.0] * len(given.vectors)
        assert found[SLOPE.name].abs().sum() == 0


def test_the_step_is_compared_at_the_recipe_s_temperature() -> None:
    given = samples([2, 2, 2])
    whole = make_objective(make_recipe(objective={"kind": "contrastive", "temperature": 0.7})).whole_step
    assert whole is not None
    torch.testing.assert_close(whole.solve(given)[COST.name], by_torch(given, {}, 0.7)[0])
