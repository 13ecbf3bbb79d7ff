"""What a classifier is worth label by label, as the lines of a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raysft.observe.data_report import aligned


def label_lines(classes: Mapping[str, Any]) -> list[str]:
    """A record's `classes` (evaluate/classified.py): a line a label of the data, with what its texts were given."""
    rows, matrix = classes["rows"], classes["confusion"]
    table = [["label", "texts", "precision", "recall", "F1", *(row["label"] for row in rows if matrix)]]
    for number, row in enumerate(rows):
        shares = [f"{row[name]:.1%}" for name in ("precision", "recall", "f1")]
        given = map(str, matrix[number]) if matrix else ()
        table.append([row["label"], f"{row['count']:,}", *shares, *given])
    return aligned(table)
