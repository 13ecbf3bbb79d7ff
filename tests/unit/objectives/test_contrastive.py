"""The costs and slopes of a step's vectors, beside torch's own cross-entropy and its gradients."""

from __future__ import annotations

import pytest
import torch
from fakes import make_recipe
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from raysft.objectives import contrastive
from raysft.objectives.contrastive import COST, RANK, RIGHT, SLOPE, compare, ranks
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


def by_sets(given: StepSamples) -> dict[int, int]:
    """{key of a query: rank of the nearest text that matches it, among different texts}, with sets of texts alone."""
    matching: dict[int, set[int]] = {}
    vector_of: dict[int, Tensor] = {}
    texts: set[int] = set()
    for place, key in enumerate(given.keys.tolist()):
        vector_of.setdefault(key, given.vectors[place])
        if given.is_first[place]:
            query = key
            continue
        texts.add(key)
        if given.is_first[place - 1]:
            matching.setdefault(query, set()).add(key)
    found = {}
    for query, right in matching.items():
        near = {text: float(vector_of[text] @ vector_of[query]) for text in texts}
        best = max(near[text] for text in right)
        found[query] = 1 + sum(near[text] >= best for text in texts - right - {query})
    return found


@pytest.mark.parametrize("chunk", [1, 100])
def test_ranks_are_among_different_texts(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    """With texts that stand twice, a query with two texts that match it, and one that is a text itself."""
    monkeypatch.setattr(contrastive, "_QUERIES", chunk)
    keys = [10, 11, 12, 11, 10, 10, 13, 14, 15, 16, 13, 14, 15, 17]
    given = samples([2, 3, 2, 2, 3, 2], keys)
    alike = {key: place for place, key in reversed(list(enumerate(keys)))}
    given = given._replace(vectors=given.vectors[[alike[key] for key in keys]])
    found = ranks(given)[RANK.name]
    asked = given.keys[given.is_first].tolist()
    assert {key: int(rank) for key, rank in zip(asked, found, strict=True) if rank} == by_sets(given)
    assert [int(rank > 0) for rank in found] == [1, 1, 0, 1, 1, 1], "an equal query counts once"
    assert max(by_sets(given).values()) > 1


def test_recall_is_told_of_all_queries_together() -> None:
    objective = make_objective(make_recipe(objective={"kind": "contrastive"}))
    assert objective.counted is not None
    rows = contrastive._counts(torch.tensor([1.0, 0.0, 4.0, 20.0]))
    assert objective.counted.tell(rows.sum(0).tolist()) == pytest.approx(
        {"recall_at_1": 1 / 3, "recall_at_10": 2 / 3, "mrr": (1 + 1 / 4 + 1 / 20) / 3}
    )
    assert objective.counted.tell([0.0] * 4) == {}
    assert ranks(samples([1, 1]))[RANK.name].tolist() == [0, 0]
