"""How many samples have each label, and that none is without. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from raysft.errors import DataError
from raysft.recipe.columns import Classes


def count_classes(values: NDArray[Any], classes: Classes) -> dict[str, int]:
    """{label: its samples}. values: of the column of classes, [samples], or [samples, labels] of 0 and 1."""
    if classes.several:
        counts = values.astype(np.int64).sum(0)
    else:
        counts = np.bincount(values.astype(np.int64), minlength=len(classes.labels))
    return dict(zip(classes.labels, counts.tolist(), strict=True))


def refuse_empty(counts: dict[str, int]) -> None:
    """Raise DataError for a label that no sample of the training data has."""
    if missing := [label for label, count in counts.items() if not count]:
        raise DataError(
            "a label has no example to be learnt from",
            got=f"no training sample of {', '.join(map(repr, missing))}; "
            + ", ".join(f"{label} {count:,}" for label, count in counts.items() if count),
            expected="samples of every label in objective.labels, behind the rules and data.eval_fraction",
            fix="take the label out of objective.labels, or add records that have it (is it written as in the data?)",
        )
