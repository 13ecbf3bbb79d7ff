"""What answers are scored by. Pure: no torch, no other room; recipes know the names from this table.

A new metric is a `Metric` in a module here and a line in ALL: recipes, reports, cards and the API read no other table
of them.
"""

from __future__ import annotations

from raysft.metrics.base import Metric
from raysft.metrics.bertscore import BERTSCORE
from raysft.metrics.bleu import BLEU
from raysft.metrics.chrf import CHRF
from raysft.metrics.diversity import DISTINCT_1, DISTINCT_2, LENGTH, REPETITION
from raysft.metrics.exact_match import EXACT_MATCH, NORMALIZED_MATCH, TOKEN_F1
from raysft.metrics.final_answer import FINAL_ANSWER
from raysft.metrics.labels import LABEL_ACCURACY, MACRO_F1
from raysft.metrics.meteor import METEOR
from raysft.metrics.passes_tests import PASSES_TESTS
from raysft.metrics.refusals import REFUSALS
from raysft.metrics.rouge import ROUGE_1, ROUGE_2, ROUGE_L, ROUGE_S
from raysft.metrics.toxicity import TOXICITY

ALL = (
    *(EXACT_MATCH, NORMALIZED_MATCH, TOKEN_F1, FINAL_ANSWER, LABEL_ACCURACY, MACRO_F1),
    *(BLEU, CHRF, ROUGE_1, ROUGE_2, ROUGE_L, ROUGE_S, METEOR, BERTSCORE),
    PASSES_TESTS,
    *(DISTINCT_1, DISTINCT_2, REPETITION, LENGTH, REFUSALS, TOXICITY),
)
"""In the order of tables."""

METRICS: dict[str, Metric] = {metric.name: metric for metric in ALL}
"""{name: metric}."""
