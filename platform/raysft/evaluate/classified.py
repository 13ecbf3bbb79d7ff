"""What a classifier is worth: its labels for held-out texts, as transformers gives them, beside those of the data.

Each text goes through the classifier as it is exported, by itself. Counts by label add up to accuracy, F1 and the
confusion matrix.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from raysft.data.feed.collate import collate
from raysft.data.store.parts import TokenStore
from raysft.metrics.base import Estimate
from raysft.metrics.estimate import wilson
from raysft.recipe.columns import Classes

Found = tuple[NDArray[np.bool_], NDArray[np.bool_]]
"""([texts, labels] the data's labels, [texts, labels] the model's)."""


@torch.no_grad()
def classify(model: PreTrainedModel, store: TokenStore, classes: Classes, *, max_rows: int) -> Found:
    """Labels of the texts in the first max_rows rows of a token store. model: a sequence classifier."""
    model.train(False)
    known, told = [], []
    for index in range(min(max_rows, store.num_rows)):
        batch = collate(store.read_rows([index]), index, packing=False, fields=(classes.field,))
        for row, length in zip(batch.input_ids, (batch.segment_of >= 0).sum(1), strict=True):
            ids = torch.from_numpy(row[None, :length]).to(model.device)
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].float().cpu().numpy()
            told.append(logits > 0 if classes.several else _only(int(logits.argmax()), classes))
        values = batch.fields[classes.field.name]
        known += list(values > 0) if classes.several else [_only(int(value), classes) for value in values]
    return np.array(known), np.array(told)


def classification_record(found: Found, classes: Classes) -> dict[str, Any]:
    """The record of a set, as JSON: `metrics` {name: Estimate}, by the names of metrics of answers, and `classes`:
    labels with their counts, precision, recall and F1, and where each text has one label the confusion matrix [data's
    label][model's]. Pure."""
    known, told = found
    both = (known & told).sum(0)
    precision, recall = _share(both, told.sum(0)), _share(both, known.sum(0))
    f1 = _share(2 * both, known.sum(0) + told.sum(0))
    right = int((known == told).all(1).sum())
    metrics = {
        "label_accuracy": Estimate(right / len(known), len(known), *wilson(right, len(known))),
        "macro_f1": Estimate(float(f1.mean()), len(known), None, None),
    }
    rows = [
        {"label": label, "count": int(count), "precision": float(p), "recall": float(r), "f1": float(f)}
        for label, count, p, r, f in zip(classes.labels, known.sum(0), precision, recall, f1, strict=True)
    ]
    matrix = None if classes.several else (known.T.astype(np.int64) @ told.astype(np.int64)).tolist()
    return {
        "metrics": {name: asdict(one) for name, one in metrics.items()},
        "num_prompts": len(known),
        "samples": [],
        "classes": {"rows": rows, "confusion": matrix},
    }


def _only(number: int, classes: Classes) -> NDArray[np.bool_]:
    only: NDArray[np.bool_] = np.arange(len(classes.labels)) == number
    return only


def _share(parts: NDArray[Any], wholes: NDArray[Any]) -> NDArray[np.float64]:
    """0 where there is nothing."""
    shares: NDArray[np.float64] = parts / np.maximum(wholes, 1)
    return shares
