"""How many samples have each label or judgement, and that none is without."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raysft.errors import DataError
from raysft.recipe.columns import UNKNOWN, Classes

logger = logging.getLogger(__name__)


def count_categories(columns: Mapping[Classes, NDArray[Any]], *, is_learnt: bool) -> dict[str, dict[str, int]]:
    """{`labels`, or another name in the plural: {label: its samples}}. is_learnt: by a model; then DataError is
    raised for one without a sample, and what will not do is told of."""
    counts = {f"{category.name}s": count_classes(values, category) for category, values in columns.items()}
    if is_learnt:
        labels = next((values for category, values in columns.items() if not category.column), None)
        for category, values in columns.items():
            refuse_empty(counts[f"{category.name}s"], category.name)
            if category.column and labels is not None and labels.ndim == 1 and tells_label(values, labels):
                logger.warning(
                    "each %s has texts of one label alone: what keeps the %s out of the model keeps the label out",
                    *(category.name,) * 2,
                )
    return counts


def count_classes(values: NDArray[Any], classes: Classes) -> dict[str, int]:
    """{label: its samples}. values: of the column of classes, [samples], or [samples, labels] of 0 and 1; UNKNOWN is
    counted as none."""
    known = values[(values != UNKNOWN) if values.ndim == 1 else (values != UNKNOWN).all(1)].astype(np.int64)
    counts = known.sum(0) if classes.several else np.bincount(known, minlength=len(classes.labels))
    return dict(zip(classes.labels, counts.tolist(), strict=True))


def count_judged(values: NDArray[Any], *, is_learnt: bool) -> dict[str, int]:
    """{`wanted`, `unwanted`: answers}. values: of the column WANTED, [answers]. is_learnt: DataError is raised where
    all are alike."""
    counts = {"wanted": int((values > 0).sum()), "unwanted": int((values <= 0).sum())}
    if is_learnt and not all(counts.values()):
        raise DataError(
            "answers that are all judged alike teach no difference",
            got=", ".join(f"{name} {count:,}" for name, count in counts.items()),
            expected="wanted and unwanted answers, behind the rules and data.eval_fraction",
            fix="add records of the other kind (is `label` true or false, 1 or 0?); of wanted answers alone a model "
            "learns by objective: sft",
        )
    return counts


def tells_label(values: NDArray[Any], labels: NDArray[Any]) -> bool:
    """Does another column, of which there are several values, tell the label: is each value of one label alone? Both
    [samples]; those of an UNKNOWN label say nothing."""
    known = labels != UNKNOWN
    pairs = {*zip(values[known].tolist(), labels[known].tolist(), strict=True)}
    return len(pairs) == len({value for value, _ in pairs}) > 1 < len({label for _, label in pairs})


def refuse_empty(counts: dict[str, int], name: str = "label") -> None:
    """Raise DataError for a label (name: what it is called) that no sample of the training data has."""
    where = f"objective.{name}s"
    if missing := [label for label, count in counts.items() if not count]:
        raise DataError(
            f"a {name} has no example to be learnt from",
            got=f"no training sample of {', '.join(map(repr, missing))}"
            + "".join(f"; {label} {count:,}" for label, count in counts.items() if count),
            expected=f"samples of every {name} in {where}, behind the rules and data.eval_fraction",
            fix=f"take the {name} out of {where}, or add records that have it (is it written as in the data?)",
        )
