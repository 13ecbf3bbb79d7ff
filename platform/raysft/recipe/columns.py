"""Columns of training data besides the token ids: what a field is, whoever declares, writes or reads it."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Literal

Per = Literal["token", "segment", "atom"]
"""What a value belongs to: a token, a sample (one segment of a packed row), or a group of samples that is never split
over rows, as chosen and rejected answers are."""


@dataclass(frozen=True)
class Field:
    """One column besides input_ids."""

    name: str
    """`target`, `reference_log_prob`, `label`, ..."""
    per: Per
    dtype: str
    """Type of the stored numbers, as numpy writes it, little-endian: `<f4`."""
    width: int = 1
    """Numbers a value: a teacher's k log-probabilities of a token."""
    predicts: bool = False
    """A token's value belongs to the prediction OF that token, which is made at the token before it."""
    padding: float = 0.0
    """What stands where there is no value."""

    @property
    def column(self) -> str:
        """Its name in a table of packed rows."""
        return f"{self.per}.{self.name}"


TARGET = Field("target", "token", "u1", predicts=True)
"""1: trained. Of every store."""

REFERENCE_LOG_PROB = Field("reference_log_prob", "segment", "<f4")
"""The log-probability that the untrained model gives the trained tokens of a sample: their sum."""

WANTED = Field("wanted", "atom", "<f4")
"""1: the record says that its answer is a good one; 0: that it is not. Written with the tokens."""

MARGIN = Field("score_margin", "atom", "<f4")
"""By how much the data scores the preferred answer of a pair higher than the rejected one. Written with them."""

SCORE = Field("answer_score", "segment", "<f4")
"""What the data scores an answer of a list by: higher is better. Written with the tokens."""


def bare(text: str) -> str:
    """Text as a reader sees it: without blanks at its ends, each accent on its letter (Unicode NFC)."""
    return unicodedata.normalize("NFC", text).strip()


@dataclass(frozen=True)
class Classes:
    """What samples may be."""

    labels: tuple[str, ...] = ()
    """Empty: nothing is told of them."""
    several: bool = False
    """A sample may have several of these labels, or none."""
    name: str = "label"
    """What it is, in a word: of its column in a batch, and in refusals."""
    column: str = ""
    """The column of records that says it; empty: what their format reads as the label."""
    optional: bool = False
    """A record may say nothing of it: UNKNOWN stands in the column."""

    @property
    def field(self) -> Field:
        """A sample's label as its number; where it may have several, 1 or 0 for each label."""
        return Field(self.name, "atom", "<f4", width=len(self.labels) if self.several else 1)

    def meant(self, given: str) -> str:
        """`; Good was meant?`: the label that is this one but for case, blanks and accents; empty: there is none."""
        wanted = bare(given).casefold()
        alike = next((label for label in self.labels if bare(label).casefold() == wanted), None)
        if alike is None:
            return ""
        return f"; was {alike!r} meant, which differs in case, blanks or the Unicode form of its accents?"


UNKNOWN = -1.0
"""What stands in the column of Classes where nothing is known of a sample."""


def teacher_top_k(k: int) -> tuple[Field, Field]:
    """(ids of the k tokens that the teachers hold likeliest where a token is predicted, their log p)."""
    return (
        Field("teacher_ids", "token", "<i4", width=k, predicts=True),
        Field("teacher_log_probs", "token", "<f4", width=k, predicts=True),
    )


def reference_top_k(k: int) -> tuple[Field, Field]:
    """(ids of the k tokens that the untrained model holds likeliest where it predicts a token, their log p)."""
    return (
        Field("reference_ids", "token", "<i4", width=k, predicts=True),
        Field("reference_log_probs", "token", "<f4", width=k, predicts=True),
    )
