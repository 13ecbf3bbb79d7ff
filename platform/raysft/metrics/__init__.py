"""What answers are scored by. Pure: no torch, no other room; recipes know the names from this table.

A new metric is a module here and a line in METRICS: recipes, reports, cards and the API read no other table of them.
"""

from __future__ import annotations

from raysft.metrics.base import Metric
from raysft.metrics.exact_match import EXACT_MATCH

METRICS: dict[str, Metric] = {metric.name: metric for metric in (EXACT_MATCH,)}
"""{name: metric}, in the order of tables."""
