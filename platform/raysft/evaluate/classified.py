"""What a classifier is worth: its labels for held-out texts, as transformers gives them, beside those of the data.

Each text goes through the classifier as it is exported, by itself. Counts by label add up to accuracy, F1 and the
confusion matrix.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from raysft.data.feed.collate import collate
from raysft.data.store.parts import TokenStore
from raysft.metrics.base import Estimate
from raysft.metrics.calibration import BINS, bin_rows, calibration_bins, calibration_error
from raysft.metrics.classes import macro_f1
from raysft.metrics.estimate import bootstrap, wilson
from raysft.recipe.columns import UNKNOWN, Classes


@dataclass(frozen=True)
class Classified:
    """Texts with labels."""

    known: NDArray[np.bool_]
    """[texts, labels] of the data."""
    told: NDArray[np.bool_]
    """[texts, labels] of the model."""
    probabilities: NDArray[np.float64]
    """[texts, labels] that the model gives: of one label each by softmax, of any number by sigmoid."""
    texts: Sequence[str] = ()
    """A key of each: the same for the same words, whatever tokenizer has read them."""


@torch.no_grad()
def classify(
    model: PreTrainedModel,
    store: TokenStore,
    classes: Classes,
    *,
    max_rows: int,
    decode: Callable[[list[int]], str],
) -> Classified:
    """Labels of the texts with labels in the first max_rows rows of a token store.

    model: a sequence classifier. decode: the text of tokens.
    """
    model.train(False)
    known, told, probabilities, texts = [], [], [], []
    for index in range(min(max_rows, store.num_rows)):
        batch = collate(store.read_rows([index]), index, packing=False, fields=(classes.field,))
        values = batch.fields[classes.field.name]
        has_label = (values != UNKNOWN).reshape(len(values), -1).all(1)
        lengths = (batch.segment_of >= 0).sum(1)
        for row, length in zip(batch.input_ids[has_label], lengths[has_label], strict=True):
            ids = torch.from_numpy(row[None, :length]).to(model.device)
            texts.append(text_key(decode(row[:length].tolist())))
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].double().cpu()
            told.append(logits.numpy() > 0 if classes.several else _only(int(logits.argmax()), classes))
            probabilities.append((logits.sigmoid() if classes.several else logits.softmax(-1)).numpy())
        values = values[has_label]
        known += list(values > 0) if classes.several else [_only(int(value), classes) for value in values]
    return Classified(np.array(known), np.array(told), np.array(probabilities), texts)


def text_key(text: str) -> str:
    """A hash of a text's letters and digits without case and accents, which tokenizers may drop."""
    plain = unicodedata.normalize("NFKD", text).casefold()
    return blake2b("".join(filter(str.isalnum, plain)).encode(), digest_size=8).hexdigest()


def labelled_record(found: Classified, classes: Classes) -> dict[str, Any]:
    """What two classifiers are compared by, as JSON: metrics/labelled.py, Labelled."""
    known, told = ([np.flatnonzero(row).tolist() for row in one] for one in (found.known, found.told))
    return {
        "labels": list(classes.labels),
        "texts": list(found.texts),
        "known": known,
        "told": told,
        "brier": _brier_scores(found, classes).tolist(),
    }


def classification_record(found: Classified, classes: Classes) -> dict[str, Any]:
    """The record of a set, as JSON: `metrics` {name: Estimate}, by the names of metrics of answers, and `classes`:
    labels with their counts, precision, recall and F1, where each text has one label the confusion matrix [data's
    label][model's], and `calibration`: bins of probabilities (metrics/calibration.py). Pure.

    Of one label each a statement is that the likeliest label is right; of any number, that a text has a label: each
    label of each text is one.
    """
    known, told = found.known, found.told
    both = (known & told).sum(0)
    precision, recall = _share(both, told.sum(0)), _share(both, known.sum(0))
    f1 = _share(2 * both, known.sum(0) + told.sum(0))
    right = int((known == told).all(1).sum())
    bins, scores = _bins(found, classes), _brier_scores(found, classes)
    counts = np.hstack([known & told, known, told]).astype(np.float64)  # [texts, 3 x labels]
    metrics = {
        "label_accuracy": Estimate(right / len(known), len(known), *wilson(right, len(known))),
        "macro_f1": Estimate(macro_f1(counts.sum(0)), len(known), *bootstrap(counts, macro_f1)),
        "ece": Estimate(calibration_error(bins), len(known), how=f"{BINS} bins of equal width"),
        "brier": Estimate(float(scores.mean()), len(known), *bootstrap(scores[:, None], lambda s: s[0] / len(known))),
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
        "classes": {"rows": rows, "confusion": matrix, "calibration": bin_rows(bins)},
    }


def _bins(found: Classified, classes: Classes) -> NDArray[np.float64]:
    if classes.several:
        return calibration_bins(found.probabilities, found.known)
    return calibration_bins(found.probabilities.max(1), np.any(found.known & found.told, axis=1))


def _brier_scores(found: Classified, classes: Classes) -> NDArray[np.float64]:
    """[texts]: squared errors of the probabilities, summed over labels that exclude each other (0 to 2), else their
    mean (0 to 1). Brier 1950."""
    errors = (np.nan_to_num(found.probabilities) - found.known) ** 2
    scores: NDArray[np.float64] = errors.mean(1) if classes.several else errors.sum(1)
    return scores


def _only(number: int, classes: Classes) -> NDArray[np.bool_]:
    only: NDArray[np.bool_] = np.arange(len(classes.labels)) == number
    return only


def _share(parts: NDArray[Any], wholes: NDArray[Any]) -> NDArray[np.float64]:
    """0 where there is nothing."""
    shares: NDArray[np.float64] = parts / np.maximum(wholes, 1)
    return shares
