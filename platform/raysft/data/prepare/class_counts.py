"""How many samples have each label, and that none is without. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from raysft.errors import DataError
from raysft.recipe.columns import Classes


def count_classes(values: NDArray[Any], classes: Classes) -> dict[str, int]:
    """{label: its samples}. values: of the column of classes, [samples], or [samples, labels] of 0 and 1; UNKNOWN is
    counted as none."""
    known = values[values.reshape(len(values), -1).min(1, initial=0) >= 0].astype(np.int64)
    counts = known.sum(0) if classes.several else np.bincount(known, minlength=len(classes.labels))
    return dict(zip(classes.labels, counts.tolist(), strict=True))


def refuse_empty(counts: dict[str, int], name: str = "label") -> None:
    """Raise DataError for a label (name: what it is called) that no sample of the training data has."""
    where = f"objective.{name}s"
    if missing := [label for label, count in counts.items() if not count]:
        raise DataError(
            f"a {name} has no example to be learnt from",
            got=f"no training sample of {', '.join(map(repr, missing))}; "
            + ", ".join(f"{label} {count:,}" for label, count in counts.items() if count),
            expected=f"samples of every {name} in {where}, behind the rules and data.eval_fraction",
            fix=f"take the {name} out of {where}, or add records that have it (is it written as in the data?)",
        )
