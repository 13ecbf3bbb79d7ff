"""A step has something to compare each query with, or the data are refused."""

from __future__ import annotations

from typing import Any

import pytest

from raysft.data.prepare.matched_counts import refuse_lonely
from raysft.errors import DataError


def manifest(pairs: int, texts: int, rows: int) -> dict[str, Any]:
    return {"counts": {"occurrences": pairs, "matched_texts": texts, "rows": rows}}


@pytest.mark.parametrize(("pairs", "texts", "rows", "rows_per_step"), [(1, 2, 1, 64), (10, 20, 10, 1), (7, 14, 5, 1)])
def test_a_lonely_pair_is_refused(pairs: int, texts: int, rows: int, rows_per_step: int) -> None:
    with pytest.raises(DataError, match="nothing but the text that matches"):
        refuse_lonely(manifest(pairs, texts, rows), rows_per_step)


@pytest.mark.parametrize(
    ("pairs", "texts", "rows", "rows_per_step"), [(1, 3, 1, 64), (10, 21, 10, 1), (10, 20, 10, 2), (2, 4, 1, 1)]
)
def test_pairs_with_others_are_trained(pairs: int, texts: int, rows: int, rows_per_step: int) -> None:
    refuse_lonely(manifest(pairs, texts, rows), rows_per_step)
