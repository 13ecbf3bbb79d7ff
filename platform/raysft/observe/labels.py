"""What a classifier is worth: label by label, as the lines of a table; its probabilities, as a drawing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raysft.observe.charts import Series, line_chart
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


def reliability_chart(classes: Mapping[str, Any]) -> str:
    """An SVG element: how often each bin's statements came true, over their mean probability; empty without any."""
    bins = classes.get("calibration")
    if not bins:
        return ""
    points = [(100 * one["probability"], 100 * one["came_true"]) for one in bins]
    series = [Series("calibrated", [(0.0, 0.0), (100.0, 100.0)], "raw"), Series("this model", points, "dots")]
    return line_chart(
        series, x_label="probability, %", y_label="came true, %", width=520, height=400, y_from_zero=True
    )
