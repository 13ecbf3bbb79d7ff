"""BERTScore (Zhang et al. 2020): how well each token of an answer finds its like in the reference, by an encoder.

The numbers of each answer are a scorer's (evaluate/bertscore.py); here they become the metric: the mean F1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from raysft.metrics.base import Answer, Metric, Numbers, of_scores, scorers_of

NAME = "bertscore"
MOST_UNKNOWN = 0.05
"""Share of tokens unknown to the encoder above which its numbers are doubted: unknown tokens all look alike."""


class Counted(NamedTuple):
    """What a scorer finds of an answer and its reference. Sums of these are a set's."""

    precision: float
    recall: float
    f1: float
    answers: float = 1.0
    cut: float = 0.0
    """Texts of the two that are longer than the encoder reads."""
    unknown: float = 0.0
    """Tokens of both that the encoder has no entry for."""
    tokens: float = 0.0
    """Tokens of both, special ones apart."""


def _statistics(answers: Sequence[Answer]) -> list[Numbers]:
    return of_scores(NAME, answers)


def _value(totals: Numbers) -> float:
    found = Counted(*totals)
    return found.f1 / found.answers if found.answers else 0.0


def _totals(answers: Sequence[Answer]) -> Counted:
    return Counted(*map(sum, zip(*of_scores(NAME, answers), strict=True)))


def _details(answers: Sequence[Answer]) -> dict[str, Any]:
    found = _totals(answers)
    unknown = found.unknown / found.tokens if found.tokens else 0.0
    doubt = f"the encoder knows no entry for {unknown:.0%} of the tokens, and takes them for alike: name one that "
    doubt += "knows the language in evaluate.bertscore.model"
    return {
        "precision": found.precision / found.answers,
        "recall": found.recall / found.answers,
        "cut_texts": int(found.cut),
        "unknown_tokens": unknown,
        **({"doubt": doubt} if unknown > MOST_UNKNOWN else {}),
    }


def _how(answers: Sequence[Answer]) -> str:
    told = _details(answers)
    parts = [
        " and ".join(sorted(scorers_of(NAME, answers))),
        f"precision {told['precision']:.4f}, recall {told['recall']:.4f}",
    ]
    if told["cut_texts"]:
        parts.append(f"{told['cut_texts']} of {2 * len(answers)} texts cut at what the encoder reads")
    if told["unknown_tokens"]:
        parts.append(f"{told['unknown_tokens']:.1%} of the tokens unknown to the encoder")
    return "; ".join(parts)


BERTSCORE = Metric(NAME, "BERTScore F1", "max", _statistics, _value, needs_scores=True, how=_how, details=_details)
