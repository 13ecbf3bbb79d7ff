"""Facts about records that add up: counted per piece of the data, merged in any order, then described. Pure.

Facts are nested tables of counts with string keys, so they travel as JSON and two of them merge by addition.
Which records there are and what the rules find in them is survey.py; what the numbers mean for people is bias.py.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from raysft.data.records import Conversation
from raysft.data.report.bias import is_banded

Facts = dict[str, Any]

MAX_GROUPS = 50
"""A metadata column with more values tells no groups apart."""
QUALITY_BINS = 20
_LENGTH_BINS = 32
_FIRST_OF_A_REASON = 5
_MAX_COLUMNS = 200
_MAX_LABELS = 2000
_MAX_VALUE_CHARS = 60
_MAX_ATTRIBUTE_GROUPS = 200
OTHER = "(others)"
_MANY = "\0many"
COUNTS = ("records", "conversations", "kept", "tokens", "target_tokens", "over_long", "straddles", "characters")
"""Plain numbers among the facts."""
_TABLES = (
    *("refused", "first", "formats", "turns", "lengths", "quality", "components", "found", "findings"),
    *("labels", "columns", "attributes", "notes"),
)


def new_facts() -> Facts:
    """Facts of no record."""
    return {**dict.fromkeys(COUNTS, 0), **{name: {} for name in _TABLES}}


def count(table: dict[str, Any], name: object, number: float = 1) -> None:
    """Add to one line of a table."""
    table[str(name)] = table.get(str(name), 0) + number


def count_refusal(facts: Facts, reason: str, sample_id: int) -> None:
    """A record that is refused, with its place."""
    count(facts["refused"], reason)
    first = facts["first"].setdefault(reason, [])
    if len(first) < _FIRST_OF_A_REASON:
        first.append(sample_id)


def count_conversation(facts: Facts, conversation: Conversation, quality: Mapping[str, float]) -> None:
    """A record as it was found: `quality` are the components of its score."""
    facts["conversations"] += 1
    facts["characters"] += sum(len(message.content) for message in conversation.messages)
    count(facts["turns"], len(conversation.messages))
    if quality:
        mean = sum(quality.values()) / len(quality)
        count(facts["quality"], min(QUALITY_BINS - 1, int(mean * QUALITY_BINS)))
        for name, value in {"score": mean, **quality}.items():
            sums = facts["components"].setdefault(name, {"sum": 0.0, "records": 0})
            sums["sum"] += value
            sums["records"] += 1


def count_length(facts: Facts, num_tokens: int, num_targets: int, max_tokens: int) -> None:
    """The tokens of a sample that is kept."""
    facts["tokens"] += num_tokens
    facts["target_tokens"] += num_targets
    facts["over_long"] += num_tokens > max_tokens
    count(facts["lengths"], _rounded(num_tokens))


def count_groups(
    facts: Facts, conversation: Conversation, attributes: Collection[str], *, quality: float, kept: bool
) -> None:
    """What a record's metadata columns and its label say. `attributes`: protected ones, compared in a bias table."""
    if kept and conversation.label is not None:
        _count_label(facts["labels"], conversation.label)
    for name, value in conversation.metadata.items():
        if kept:
            values = facts["columns"].setdefault(name, {})
            count(values, _MANY if _MANY in values else _short(value))
            if len(values) > MAX_GROUPS:
                facts["columns"][name] = _capped(values)
        if name.casefold() not in attributes:
            continue
        found = facts["attributes"].setdefault(name, {})
        value = _group(name, value)
        group = found.setdefault(
            value if value in found or len(found) < _MAX_ATTRIBUTE_GROUPS else OTHER, _new_group()
        )
        group["records"] += 1
        if kept:
            answers = [m.content for m in conversation.messages if m.role in ("assistant", "text")]
            group["kept"] += 1
            group["answer_chars"] += len(answers[-1])
            group["quality"] += quality
            if conversation.label is not None:
                _count_label(group["labels"], conversation.label)


def merge_facts(many: Iterable[Facts]) -> Facts:
    """All of them together."""
    merged = new_facts()
    for facts in many:
        merged = _sum(merged, facts)
        merged["columns"] = {
            name: _capped(values) for name, values in sorted(merged["columns"].items())[:_MAX_COLUMNS]
        }
    return merged


def _count_label(table: dict[str, Any], label: str) -> None:
    name = _short(label)
    count(table, name if name in table or len(table) < _MAX_LABELS else OTHER)


def most_first(table: Mapping[str, float]) -> list[tuple[str, float]]:
    """Lines by falling count."""
    return sorted(table.items(), key=lambda item: (-item[1], item[0]))


def groups(facts: Facts) -> dict[str, list[tuple[str, float]]]:
    """The metadata columns that tell groups apart: few values, each of them of several records on average.

    A column of names or identities is none, however few records there are: its values would not be shown.
    """
    return {
        name: most_first(values)
        for name, values in sorted(facts["columns"].items())
        if _MANY not in values and len(values) <= MAX_GROUPS and 2 * len(values) <= sum(values.values())
    }


def length_facts(facts: Facts) -> dict[str, Any]:
    """Mean, quantiles and a histogram of the tokens of a sample; the last bin holds the longest 1% too."""
    lengths = sorted((int(length), number) for length, number in facts["lengths"].items())
    total = sum(number for _, number in lengths)
    if not total:
        return {"mean": 0, "quantiles": {}, "bins": []}
    quantiles = {
        name: _quantile(lengths, total, share) for name, share in (("50%", 0.5), ("90%", 0.9), ("99%", 0.99))
    }
    width = _round_up(quantiles["99%"] / _LENGTH_BINS)
    bins = [0] * (quantiles["99%"] // width + 1)
    for length, number in lengths:
        bins[min(len(bins) - 1, length // width)] += number
    return {
        "mean": facts["tokens"] / total,
        "quantiles": {"shortest": lengths[0][0], **quantiles, "longest": lengths[-1][0]},
        "bins": [{"from": index * width, "to": (index + 1) * width, "samples": n} for index, n in enumerate(bins)],
    }


def quality_facts(facts: Facts) -> dict[str, Any]:
    """Mean, histogram of 20 bins, and the mean of each component of the score."""
    means = {name: sums["sum"] / sums["records"] for name, sums in sorted(facts["components"].items())}
    return {
        "mean": means.pop("score", None),
        "bins": [facts["quality"].get(str(index), 0) for index in range(QUALITY_BINS)],
        "components": means,
    }


def _sum(first: Any, second: Any) -> Any:
    if isinstance(first, dict):
        names = [*first, *(name for name in second if name not in first)]
        return {
            name: _sum(first[name], second[name]) if name in first and name in second else {**second, **first}[name]
            for name in names
        }
    if isinstance(first, list):
        return sorted(first + second)[:_FIRST_OF_A_REASON]
    return first + second


def _capped(values: dict[str, int]) -> dict[str, int]:
    if _MANY in values or len(values) > MAX_GROUPS:
        return {_MANY: sum(values.values())}
    return values


def _new_group() -> dict[str, Any]:
    return {"records": 0, "kept": 0, "answer_chars": 0, "quality": 0.0, "labels": {}}


def _group(column: str, value: object) -> str:
    """Numbers of banded attributes in decades, everything else as it is."""
    if is_banded(column) and isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
        decade = int(value // 10 * 10)
        return f"{decade}-{decade + 9}"
    return _short(value)


def _short(value: object) -> str:
    text = str(value).encode(errors="replace").decode()
    return text if len(text) <= _MAX_VALUE_CHARS else text[: _MAX_VALUE_CHARS - 3] + "..."


def _rounded(length: int) -> int:
    """Three digits: at most 900 different lengths in every power of ten."""
    step: int = 10 ** max(0, len(str(length)) - 3)
    return length // step * step


def _round_up(width: float) -> int:
    """1, 2, 5, 10, 20, 50... from `width` on."""
    step = 1
    while True:
        for factor in (1, 2, 5):
            if factor * step >= width:
                return factor * step
        step *= 10


def _quantile(lengths: list[tuple[int, int]], total: int, share: float) -> int:
    seen = 0
    for length, number in lengths:
        seen += number
        if seen >= share * total:
            return length
    return lengths[-1][0]
