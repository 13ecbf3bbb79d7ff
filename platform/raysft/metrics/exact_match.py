"""Exact match: the answer is the reference, letter by letter."""

from __future__ import annotations

from raysft.metrics.base import Answer, Share


def is_exact(answer: Answer) -> bool:
    """Is the answer its reference, white space around them aside?"""
    return answer.text.strip() == answer.reference.strip()


EXACT_MATCH = Share("exact_match", "exact match of greedy answers", is_exact)
