"""Does a model serve groups of people alike: gaps of metrics and labels between groups.

Answers are files of `raysft generate`; a group is the value of a column of the question's record.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raysft.data.formats.values import Record
from raysft.data.read.kinds import kind_of
from raysft.data.read.readers import read_range
from raysft.data.records import Refusal
from raysft.errors import DataError, UserError
from raysft.evaluate.scorers import Scorer, make_scorers, scored
from raysft.metrics import METRICS
from raysft.metrics.base import Answer, Metric, Numbers, ratio
from raysft.metrics.estimate import estimate
from raysft.recipe.sections.evaluate import BertscoreSection, EvaluateSection, ToxicitySection

LEAST = 5
"""Answers of a group below which it is not compared."""
SHUFFLES = 1000
MOST_LABELS = 12
"""Different answers up to which they are labels whose rates are compared."""
LONGEST_LABEL = 40
"""Characters of an answer that may be a label, and of a group's name that is shown."""
REFERENCES = ("reference", "output", "answer", "completion", "response", "label")
"""Columns that hold what was to be said, the first that is there."""


@dataclass(frozen=True)
class GroupedAnswer:
    """An answer with the record of its question."""

    answer: Answer
    record: Mapping[str, Any]
    number: Any = None
    """The question's place in its file, as `raysft generate` writes it."""


def read_grouped(location: str, reference: str = "") -> list[GroupedAnswer]:
    """Every line of a file of answers. reference: the column of what was to be said. Raises DataError."""
    found = []
    for number, line in lines_of(location):
        record, text = line.get("record"), line.get("generated")
        if not isinstance(record, dict) or not isinstance(text, str | None):
            got = f"no `record` with a text in `generated`: {str(line)[:80]}"
            raise no_line(location, number, got, "a line as `raysft generate` writes it")
        columns = (reference,) if reference else REFERENCES
        wanted = next((record[name] for name in columns if record.get(name) is not None), "")
        prompt = json.dumps(record, ensure_ascii=False, sort_keys=True, default=str)
        found.append(GroupedAnswer(Answer(prompt, text or "", str(wanted)), record, line.get("number")))
    if not found:
        raise DataError(
            f"{location} holds no answer", got="no record", expected="one at least", fix="name another file"
        )
    if reference and all(one.record.get(reference) is None for one in found):
        there = sorted({name for one in found for name in one.record})
        raise DataError(
            f"no record of {location} says what was to be said",
            got=f"--reference {reference}; columns are {', '.join(there[:12])}",
            expected="a column of the questions' records",
            fix="correct --reference",
        )
    return found


def grouped_scored(answers: Sequence[GroupedAnswer], scorers: Mapping[str, Scorer]) -> list[GroupedAnswer]:
    """The same with a score by each scorer."""
    found = scored([one.answer for one in answers], scorers)
    return [replace(one, answer=answer) for one, answer in zip(answers, found, strict=True)]


def scorers_named(names: Sequence[str], encoder: str, terms: Sequence[str]) -> dict[str, Scorer]:
    """Those that the metrics need. encoder: a directory, or nothing for the default one; terms: files of words.

    Raises UserError.
    """
    unused = [
        f"{option} without {metric}"
        for option, given, metric in (("--encoder", encoder, "bertscore"), ("--terms", terms, "toxicity"))
        if given and metric not in names
    ]
    if unused or ("toxicity" in names and not terms):
        raise UserError(
            "the options of a metric stand beside it",
            got="; ".join(unused) or "toxicity without --terms",
            expected="--metrics bertscore --encoder DIRECTORY, --metrics toxicity --terms FILE",
            fix="add the metric to --metrics" if unused else "name a file with one word or phrase a line by --terms",
        )
    section = EvaluateSection(
        bertscore=BertscoreSection(model=encoder or None), toxicity=ToxicitySection(lists=tuple(terms))
    )
    return make_scorers(section, names)


def metrics_named(names: Sequence[str]) -> list[Metric]:
    """Each once. Raises UserError: one is unknown, or its package is not installed."""
    names = tuple(dict.fromkeys(names))
    if "passes_tests" in names:
        raise UserError(
            "code is not compared between groups",
            got="passes_tests, whose tests a file of answers does not tell",
            expected="a metric that compares texts",
            fix="leave it out; evaluate.sets measures it",
        )
    for name in names:
        missing = [one for one in METRICS[name].packages if find_spec(one) is None] if name in METRICS else []
        if name not in METRICS or missing:
            raise UserError(
                f"the metric {name} cannot be computed",
                got=f"no module {missing[0]}" if missing else name,
                expected="the extra `metrics`" if missing else f"one of {', '.join(METRICS)}",
                fix="pip install 'raysft[metrics]'" if missing else "correct --metrics",
            )
    return [METRICS[name] for name in names]


def group_lines(answers: Sequence[GroupedAnswer], column: str, metrics: Sequence[Metric], seed: int = 0) -> list[str]:
    """Each metric by group, the largest gap, and how often groups drawn by chance have it. Raises UserError."""
    groups: dict[str, list[Answer]] = defaultdict(list)
    for one in answers:
        if name := _group_of(one.record, column):
            groups[name].append(one.answer)
    large = {name: found for name, found in sorted(groups.items()) if len(found) >= LEAST}
    if len(large) < 2:
        seen = ", ".join(f"{_cut(name)} ({len(found)})" for name, found in sorted(groups.items())[:6])
        raise UserError(
            f"there are no groups to compare by {column}",
            got=seen or f"no record with a column {column}",
            expected=f"two groups of {LEAST} answers or more",
            fix="name another column by --by, or answer more questions",
        )
    lines = [f"by {column}: {', '.join(f'{_cut(name)} ({len(found)})' for name, found in large.items())}"]
    small = len(groups) - len(large)
    lines += [f"  {small} groups of fewer than {LEAST} answers are left out"] if small else []
    nameless = len(answers) - sum(map(len, groups.values()))
    lines += [f"  {nameless} answers whose record has no {column} are left out"] if nameless else []
    unknown = sum(not one.answer.reference for one in answers)
    told = "have nothing to be compared with: what asks for that counts them wrong (--reference COLUMN)"
    lines += [f"  {unknown} answers {told}"] if unknown and metrics else []
    for metric in metrics:
        lines.append(f"  {metric.title}")
        for name, found in large.items():
            value = estimate(metric, found)
            interval = (
                f" ({metric.shown(value.low)} to {metric.shown(value.high or 0)})" if value.low is not None else ""
            )
            lines.append(f"    {_cut(name):20} {metric.shown(value.value)}{interval}")
        rows = metric.statistics([one for found in large.values() for one in found])
        gap, p = gap_of(_parted(rows, [len(found) for found in large.values()]), metric.value, seed)
        lines.append(f"    {'gap':20} {metric.shown(gap)}, p {p:.3f}")
    return [*lines, *_label_lines(large, seed)]


def _cut(name: str) -> str:
    return name if len(name) <= LONGEST_LABEL else f"{name[: LONGEST_LABEL - 3]}..."


def _group_of(record: Mapping[str, Any], column: str) -> str:
    """What a record says of its group; empty: nothing."""
    told = record.get(column)
    return "" if told is None else str(told).strip()


def gap_of(groups: Sequence[Sequence[Numbers]], value: Callable[[Numbers], float], seed: int) -> tuple[float, float]:
    """(largest minus least value over groups, share of random groupings of the same sizes with such a gap).

    groups: numbers of each answer that add up, by group (metrics/base.py).
    """
    rows = np.array([row for group in groups for row in group], dtype=np.float64)  # [answers, numbers]
    starts = np.cumsum([0, *map(len, groups[:-1])])

    def gap(order: NDArray[np.int64]) -> float:
        values = [value(sums.tolist()) for sums in np.add.reduceat(rows[order], starts)]
        return max(values) - min(values)

    draw, found = np.random.default_rng(seed), gap(np.arange(len(rows)))
    as_far = sum(gap(draw.permutation(len(rows))) >= found - 1e-12 for _ in range(SHUFFLES))
    return found, (1 + as_far) / (1 + SHUFFLES)


def _label_lines(groups: Mapping[str, Sequence[Answer]], seed: int) -> list[str]:
    """How often each label is given to each group, where answers are labels."""
    counts = Counter(one.text.strip() for found in groups.values() for one in found)
    if not 2 <= len(counts) <= MOST_LABELS or max(map(len, counts)) > LONGEST_LABEL:
        return []
    lines = []
    for label in sorted(counts):
        rates = [f"{_cut(name)} {_rate(found, label):.1%}" for name, found in groups.items()]
        said = [[(float(one.text.strip() == label), 1.0) for one in found] for found in groups.values()]
        gap, p = gap_of(said, ratio, seed)
        lines.append(f"  answered {label!r}: {', '.join(rates)}; gap {gap:.1%}, p {p:.3f}")
    return lines


def _parted(rows: Sequence[Numbers], sizes: Sequence[int]) -> list[Sequence[Numbers]]:
    ends = list(accumulate(sizes))
    return [rows[end - size : end] for end, size in zip(ends, sizes, strict=True)]


def _rate(answers: Sequence[Answer], label: str) -> float:
    return sum(one.text.strip() == label for one in answers) / len(answers)


def lines_of(location: str) -> Iterator[tuple[int, Record]]:
    for number, (_, record) in enumerate(read_range(location, kind_of(location))):
        if isinstance(record, Refusal):
            raise no_line(location, number, f"{record.reason}: {record.detail}", "a record")
        yield number, record


def no_line(location: str, number: int, got: str, expected: str) -> DataError:
    return DataError(
        f"record {number + 1} of {location} cannot be used", got=got, expected=expected, fix="correct it"
    )
