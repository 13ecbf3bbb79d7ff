"""How many texts an epoch compares, and that every step has some to compare. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raysft.errors import DataError


def refuse_lonely(manifest: Mapping[str, Any], rows_per_step: int) -> None:
    """Raise DataError where a step has one pair of texts, on average less than two, and nothing else that would not
    match. manifest: of a store of such texts, which tells how many there are."""
    counts = manifest["counts"]
    pairs, texts = counts["occurrences"], counts["matched_texts"]
    in_step = min(rows_per_step * pairs / counts["rows"], pairs)
    if in_step < 2 and texts == 2 * pairs:
        raise DataError(
            "a query would be compared with nothing but the text that matches it",
            got=f"{pairs:,} pairs without other texts, {in_step:.1f} in a step of {rows_per_step} rows",
            expected="two pairs or more in a step, or texts that do not match in the records",
            fix="raise train.rows_per_step (64), or add negatives to the records, or more records",
        )
