"""METEOR of nltk with two of its three stages: equal words and equal stems (Banerjee and Lavie 2005).

The third one, synonyms, needs WordNet, which is no part of nltk's package; and nltk looks up stems there, not words,
so that `car` and `automobile` are not matched. It is always left out: the number is the same on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence

from raysft.metrics.base import Answer, Metric, Numbers
from raysft.metrics.tokens import is_latin, words

HOW = "nltk, equal words and stems (Porter), no synonyms; words as for ROUGE"


class NoSynonyms:
    """Stands for WordNet."""

    def synsets(self, word: str) -> list[object]:
        """None."""
        return []


def _statistics(answers: Sequence[Answer]) -> list[Numbers]:
    from nltk.translate.meteor_score import single_meteor_score

    found: list[Numbers] = []
    for answer in answers:
        latin = is_latin(answer.reference)
        said, wanted = words(answer.text, latin), words(answer.reference, latin)
        score = single_meteor_score(wanted, said, wordnet=NoSynonyms()) if said and wanted else 0.0
        found.append((float(score), 1.0))
    return found


METEOR = Metric("meteor", "METEOR without synonyms", "max", _statistics, packages=("nltk",), how=lambda answers: HOW)
