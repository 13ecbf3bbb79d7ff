"""BLEU as sacrebleu computes it (Post 2018), with its signature; of Chinese by the tokenizer for Chinese.

Its default tokenizer takes a Chinese sentence for one word. Which one is used follows from the references alone, so
it is the same for all models: `zh` where a tenth of their letters is Chinese, `char` where a tenth is of another
script without blanks between words (Japanese, Thai), else `13a`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from raysft.metrics.base import Answer, Metric, Numbers
from raysft.metrics.tokens import OTHER_SCRIPT, is_han, letter_share, writes_no_blanks

if TYPE_CHECKING:
    from sacrebleu.metrics.bleu import BLEU as Scorer  # noqa: N811

ORDER = 4
"""Longest n-grams."""


def tokenizer_of(references: Sequence[str]) -> str:
    """sacrebleu's name of the tokenizer for these."""
    text = "".join(references)
    others = letter_share(text, lambda code: writes_no_blanks(code) and not is_han(code))
    if others >= OTHER_SCRIPT:  # Japanese has Chinese letters, too
        return "char"
    return "zh" if letter_share(text, is_han) >= OTHER_SCRIPT else "13a"


def _statistics(answers: Sequence[Answer]) -> list[Numbers]:
    """Right n-grams of 1 to 4, all n-grams of 1 to 4, words, words of its reference: of each answer."""
    scorer = _scorer(answers, effective_order=True)  # of a sentence; counts are the same
    found = [scorer.sentence_score(answer.text, [answer.reference]) for answer in answers]
    return [(*one.counts, *one.totals, one.sys_len, one.ref_len) for one in found]


def _value(totals: Numbers) -> float:
    from sacrebleu.metrics import bleu

    whole = [int(number) for number in totals]
    right, all_of_them = whole[:ORDER], whole[ORDER : 2 * ORDER]
    return float(bleu.BLEU.compute_bleu(right, all_of_them, whole[-2], whole[-1], smooth_method="exp").score)


def _signature(answers: Sequence[Answer]) -> str:
    scorer = _scorer(answers, effective_order=False)
    scorer.corpus_score([answer.text for answer in answers[:1]], [[answer.reference for answer in answers[:1]]])
    return str(scorer.get_signature())


def _scorer(answers: Sequence[Answer], *, effective_order: bool) -> Scorer:
    from sacrebleu.metrics import bleu

    tokenizer = tokenizer_of([answer.reference for answer in answers])
    return bleu.BLEU(tokenize=tokenizer, effective_order=effective_order)


BLEU = Metric(
    "bleu", "BLEU", "max", _statistics, _value, lambda value: f"{value:.2f}", packages=("sacrebleu",), how=_signature
)
