"""What a model of vectors is worth: does the vector of a query find the text that matches it among all of a set?

Every query of the set is compared with every different text of the set. Which rows, steps or workers they were
trained in plays no part.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from raysft.data.store.parts import TokenStore
from raysft.metrics.base import Estimate
from raysft.metrics.estimate import wilson
from raysft.model.embedder import embed
from raysft.recipe.sections.embedding_objectives import Pooling

_QUERIES = 1024
"""Queries whose similarities to all texts are in memory at a time."""

Text = tuple[int, ...]
"""Its tokens."""


def retrieve(model: PreTrainedModel, store: TokenStore, pooling: Pooling, *, max_rows: int) -> tuple[list[int], int]:
    """(rank of the nearest text that matches each different query, from 1 on; number of different texts) of the first
    max_rows rows of a token store. A text as near as the right one counts as nearer."""
    matching, texts = _matches(store, max_rows)
    queries = list(matching)
    places = {text: number for number, text in enumerate(texts)}
    vectors = embed(model, [np.asarray(text, np.int64) for text in (*queries, *texts)], pooling)
    asked, found = vectors[: len(queries)], vectors[len(queries) :]
    ranks: list[int] = []
    for start in range(0, len(queries), _QUERIES):
        similar = asked[start : start + _QUERIES] @ found.T
        for query, row in zip(queries[start : start + _QUERIES], similar, strict=True):
            right = torch.tensor([places[text] for text in matching[query]])
            others = torch.ones(len(row), dtype=torch.bool)
            others[right] = False
            if query in places:  # the query's own text is no answer to it
                others[places[query]] = False
            ranks.append(1 + int((row[others] >= row[right].max()).sum()))
    return ranks, len(texts)


def retrieval_record(ranks: list[int], num_texts: int) -> dict[str, Any]:
    """The record of a set, as JSON: `metrics` {name: Estimate}. Pure."""
    places: NDArray[np.int64] = np.asarray(ranks)
    count = len(places)
    metrics = {}
    for name, within in (("recall_at_1", 1), ("recall_at_10", 10)):
        hits = int((places <= within).sum())
        metrics[name] = Estimate(hits / count, count, *wilson(hits, count))
    metrics["mrr"] = Estimate(float((1 / places).mean()), count, None, None)
    return {
        "metrics": {name: asdict(one) for name, one in metrics.items()},
        "num_prompts": count,
        "samples": [],
        "num_texts": num_texts,
    }


def _matches(store: TokenStore, max_rows: int) -> tuple[dict[Text, set[Text]], list[Text]]:
    """({query: the texts that match it}, all different texts)."""
    matching: dict[Text, set[Text]] = {}
    texts: dict[Text, None] = {}
    for index in range(min(max_rows, store.num_rows)):
        (row,) = store.read_rows([index])
        ids = np.split(row.token_fields["input_ids"], np.cumsum(row.segment_fields["length"])[:-1])
        samples, atoms = [tuple(text.tolist()) for text in ids], row.segment_fields["atom"]
        for atom in np.unique(atoms):
            query, right, *wrong = (sample for sample, own in zip(samples, atoms, strict=True) if own == atom)
            matching.setdefault(query, set()).add(right)
            texts.update(dict.fromkeys((right, *wrong)))
    return matching, list(texts)
