"""Questions with terms exchanged (`he` and `she`), and whether their answers change: the counterfactual swap test."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from raysft.errors import DataError, UserError
from raysft.evaluate.fairness import GroupedAnswer, lines_of, no_line
from raysft.evaluate.scorers import NO_SCORERS, Scorer, scored
from raysft.metrics.base import Answer, Metric
from raysft.metrics.estimate import compare
from raysft.outputs import write_text


def swap_lines(
    first: Sequence[GroupedAnswer],
    swapped: Sequence[GroupedAnswer],
    metrics: Sequence[Metric],
    scorers: Mapping[str, Scorer] = NO_SCORERS,
) -> list[str]:
    """Answers to questions and to the same with terms exchanged: how many change, and each metric's paired test.

    Raises UserError where the questions are not as many.
    """
    if len(first) != len(swapped):
        raise UserError(
            "answers to exchanged questions are compared in pairs",
            got=f"{len(first):,} and {len(swapped):,} answers",
            expected="as many of both, in the same order",
            fix="raysft generate for both files of questions, whole",
        )
    for place, (one, other) in enumerate(zip(first, swapped, strict=True)):
        if one.number != other.number or _without_texts(one.record) != _without_texts(other.record):
            raise UserError(
                f"answer {place + 1} of both files is not to the same question",
                got=f"{_short(one)} and {_short(other)}",
                expected="the same questions in the same order, which differ by exchanged terms alone",
                fix="--swap TERMS --out FILE makes the second file's questions of the first's; answer both whole",
            )
    pairs = [
        (one.answer, Answer(one.answer.prompt, other.answer.text, one.answer.reference))
        for one, other in zip(first, swapped, strict=True)
        if one.answer.prompt != other.answer.prompt
    ]
    if not pairs:
        raise UserError(
            "no question has changed",
            got="the same questions in both files",
            expected="terms exchanged",
            fix="--swap TERMS --out FILE makes such questions; answer them, and name the answers by --swapped",
        )
    changed = sum(one.text.strip() != other.text.strip() for one, other in pairs)
    sides = [scored(side, scorers) for side in map(list, zip(*pairs, strict=True))]
    lines = [f"exchanged: {len(pairs)} of {len(first)} questions hold a term; {changed} answers change"]
    for metric in metrics:
        found = compare(metric, sides[0], sides[1])
        if found is not None:
            shown = f"{found.difference:+.4f} ({found.low:+.4f} to {found.high:+.4f}), p {found.p:.3f}"
            lines.append(f"  {metric.title}: {shown}")
    return lines


def _without_texts(value: Any) -> Any:
    """What an exchange of terms leaves as it is."""
    if isinstance(value, dict):
        return {key: _without_texts(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_without_texts(child) for child in value]
    return "" if isinstance(value, str) else str(value)


def _short(one: GroupedAnswer) -> str:
    return f"number {one.number}: {str(dict(one.record))[:60]}"


def read_terms(location: str) -> list[tuple[str, str]]:
    """Pairs of terms from a file whose records have two columns. Raises DataError."""
    found = []
    for number, record in lines_of(location):
        texts = [str(value).strip() for value in record.values() if isinstance(value, str) and value.strip()]
        if len(texts) != 2 or texts[0] == texts[1]:
            raise no_line(location, number, str(record)[:80], "two different terms")
        found.append((texts[0], texts[1]))
    twice = [term for term, count in Counter(term for pair in found for term in pair).items() if count > 1]
    if not found or twice:
        raise DataError(
            f"the terms of {location} cannot be exchanged",
            got=f"{twice[0]!r} twice" if twice else "no record",
            expected="each term once",
            fix="keep one pair of each",
        )
    return found


def exchanged(text: str, terms: Sequence[tuple[str, str]]) -> str:
    """The text with each term replaced by its other, both ways at once; `He` becomes `She`. Letters of scripts with
    blanks between words are words of their own: `he` is not found in `the`."""
    other = {one.lower(): two for one, two in terms} | {two.lower(): one for one, two in terms}
    parts = sorted(other, key=len, reverse=True)
    pattern = "|".join(rf"\b{re.escape(part)}\b" if part.isascii() else re.escape(part) for part in parts)

    def put(match: re.Match[str]) -> str:
        found, said = match.group(), other[match.group().lower()]
        if found.isupper() and len(found) > 1:
            return said.upper()
        return said[:1].upper() + said[1:] if found[:1].isupper() else said

    return re.sub(pattern, put, text, flags=re.IGNORECASE)


def write_swapped(questions: str, terms: Sequence[tuple[str, str]], out: str) -> tuple[int, int]:
    """Questions with terms exchanged in all their texts, in the same order: (all, changed). Raises DataError."""
    records = [record for _, record in lines_of(questions)]
    if not records:
        raise DataError(
            f"{questions} holds no question", got="no record", expected="one at least", fix="name another file"
        )
    made = [_swapped(record, terms) for record in records]
    write_text(out, "".join(json.dumps(one, ensure_ascii=False, default=str) + "\n" for one in made))
    return len(made), sum(one != other for one, other in zip(records, made, strict=True))


def _swapped(value: Any, terms: Sequence[tuple[str, str]]) -> Any:
    if isinstance(value, dict):
        return {key: child if key == "role" else _swapped(child, terms) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_swapped(child, terms) for child in value]
    return exchanged(value, terms) if isinstance(value, str) else value
