"""Ranks of the texts that match, by hand: each text is one token, and its vector stands in a table."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from raysft.evaluate import retrieval
from raysft.evaluate.retrieval import retrieval_record, retrieve

QUERIES = {1: [1.0, 0.0], 2: [0.0, 1.0], 3: [0.6, 0.8]}
TEXTS = {11: [0.9, 0.1], 12: [0.1, 0.9], 13: [0.7, 0.7], 14: [1.0, 0.0]}


class Store:
    """Rows of atoms of texts of a token each."""

    def __init__(self, *rows: list[tuple[int, ...]]) -> None:
        self.rows, self.num_rows = rows, len(rows)

    def read_rows(self, numbers: list[int]) -> list[Any]:
        found = []
        for atoms in (self.rows[number] for number in numbers):
            tokens = {"input_ids": np.array([token for atom in atoms for token in atom])}
            lengths = np.ones(len(tokens["input_ids"]), np.int64)
            of = np.array([number for number, atom in enumerate(atoms) for _ in atom])
            found.append(SimpleNamespace(token_fields=tokens, segment_fields={"length": lengths, "atom": of}))
        return found


@pytest.fixture(autouse=True)
def vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    def embed(model: object, texts: list[Any], pooling: str) -> Tensor:
        return torch.tensor([{**QUERIES, **TEXTS}[int(text[0])] for text in texts])

    monkeypatch.setattr(retrieval, "embed", embed)
    monkeypatch.setattr(retrieval, "_QUERIES", 2)


def ranks(*rows: list[tuple[int, ...]], max_rows: int = 9) -> tuple[list[int], int]:
    store: Any = Store(*rows)
    return retrieve(None, store, "mean", max_rows=max_rows)  # type: ignore[arg-type]


def test_every_query_is_compared_with_all_texts_of_the_set() -> None:
    """3: 13 is nearest (0.98), then 12 (0.78), 11 (0.62) and 14 (0.6)."""
    assert ranks([(1, 11)], [(2, 12), (3, 13)]) == ([1, 1, 1], 3)
    assert ranks([(1, 11, 14), (2, 12)], [(3, 11)]) == ([2, 1, 2], 3)
    assert ranks([(1, 11, 14), (2, 12)], [(3, 11)], max_rows=1) == ([2, 1], 3)
    assert ranks([(3, 14, 13), (2, 12), (1, 11)]) == ([4, 1, 2], 4)


def test_equal_queries_are_one_and_each_of_their_texts_is_right() -> None:
    assert ranks([(3, 11), (3, 13)], [(2, 12)]) == ([1, 1], 3)


def test_a_text_that_is_as_near_as_the_right_one_counts_as_nearer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TEXTS, 12, TEXTS[11])
    assert ranks([(1, 11), (2, 12)]) == ([2, 2], 2)


def test_a_query_that_is_a_text_of_another_is_no_answer_to_itself() -> None:
    assert ranks([(1, 11), (2, 1)]) == ([1, 2], 2)


def test_shares_and_the_mean_of_reciprocal_ranks() -> None:
    record = retrieval_record([1, 2, 4, 20], 40)
    values = {name: one["value"] for name, one in record["metrics"].items()}
    assert values == {"recall_at_1": 0.25, "recall_at_10": 0.75, "mrr": pytest.approx((1 + 0.5 + 0.25 + 0.05) / 4)}
    assert record["metrics"]["recall_at_1"]["low"] < 0.25 < record["metrics"]["recall_at_1"]["high"]
