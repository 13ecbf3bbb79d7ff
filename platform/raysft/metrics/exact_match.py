"""Exact match: the answer is the reference, letter by letter, or word by word."""

from __future__ import annotations

from collections import Counter

from raysft.metrics.base import Answer, mean, percent, share
from raysft.metrics.tokens import is_latin, plain_words


def is_exact(answer: Answer) -> bool:
    """Is the answer its reference, white space around them aside?"""
    return answer.text.strip() == answer.reference.strip()


def is_same_words(answer: Answer) -> bool:
    """Is it its reference without case, punctuation and articles? A reference without words is compared as it is."""
    latin = is_latin(answer.reference)
    wanted = plain_words(answer.reference, latin)
    return plain_words(answer.text, latin) == wanted if wanted else is_exact(answer)


def word_f1(answer: Answer) -> float:
    """Harmonic mean of precision and recall of words, as SQuAD counts them; 1 where neither has a word."""
    latin = is_latin(answer.reference)
    said, wanted = (Counter(plain_words(text, latin)) for text in (answer.text, answer.reference))
    if not said or not wanted:
        return float(said == wanted)
    return 2 * (said & wanted).total() / (said.total() + wanted.total())


EXACT_MATCH = share("exact_match", "exact match of greedy answers", is_exact)
NORMALIZED_MATCH = share("normalized_match", "match without case, punctuation, articles", is_same_words)
TOKEN_F1 = mean("token_f1", "F1 of words", word_f1, shown=percent)
