"""What a person wants to see of the data: which tokens are trained, and the certificate of a store.

Needs no Ray: a preview reads the first records itself, through the same functions as prepare.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any

import numpy as np
from rich.text import Text

from raysft.data.notes import NoteCounts, count_notes, tell_notes, unused
from raysft.data.read.sources import read_all
from raysft.data.report.trace import LEARNT, Traced, TracedSample, Tracer, token_kind
from raysft.data.store.packing import pack
from raysft.data.text.fitting import COUNTED, ROLES, counted
from raysft.errors import DataError
from raysft.recipe.objective_traits import SAMPLE_NAMES
from raysft.recipe.schema import Recipe

_STYLES = {
    "trained": ("bold green", "bold green on grey23"),
    "straddling": ("bold white on red", "bold white on dark_red"),
    "unknown": ("bold black on magenta", "bold black on dark_magenta"),
    "plain": ("dim", "dim on grey23"),
}
"""Two shades of each kind of token take turns, so that the borders of tokens show."""
_BRACKETS = {"trained": ("[[", "]]"), "straddling": ("[~", "~]"), "unknown": ("[?", "?]")}
"""Around what is not plain, where there are no colours."""
_LOOKS_LIKE_BRACKETS = re.compile(r"\[(?=[\[~?]|\Z)|(?<=[\]~?])\]|\](?=\Z)|\A[\[\]]")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""What a terminal would carry out, or turn around, instead of showing it."""
_MAX_ROWS = 3
_RULE = "---"


class _Page:
    """The text that grows: with colours, and without."""

    def __init__(self, *, raw: bool) -> None:
        self.colored, self.plain = Text(), Text()
        self._raw = raw

    def heading(self, line: str) -> None:
        self._both(f"{_RULE} {_shown(line)}\n", "bold")

    def line(self, line: str) -> None:
        self._both(f"    {_shown(line)}\n", "yellow")

    def _both(self, line: str, style: str) -> None:
        self.colored.append(line, style=style)
        self.plain.append(line)

    def sample(self, sample: TracedSample) -> None:
        """Each token on a line, or in a shade, or runs of tokens that are not plain between brackets."""
        pieces, example = sample.pieces, sample.example
        if self._raw:
            columns = (sample.words, example.input_ids.tolist(), example.target.tolist(), example.flags.tolist())
            for number, (word, index, weight, flags) in enumerate(zip(*columns, strict=True)):
                kind = token_kind(0.0 if sample.learnt else weight, flags)
                self._both(f"{number:7} {index:8}  {kind:10}  {_shown(word)}\n", _STYLES[kind][0])
        else:
            for index, (piece, kind) in enumerate(pieces):
                self.colored.append(_shown(piece), style=_STYLES[kind][index % 2])
            for kind, run in groupby(pieces, key=lambda token: token[1]):
                joined = _LOOKS_LIKE_BRACKETS.sub(r"\\\g<0>", _shown("".join(piece for piece, _ in run)))
                before, after = _BRACKETS.get(kind, ("", ""))
                self.plain.append(f"{before}{joined}{after}")
        self._both("\n", "")


@dataclass(frozen=True)
class Preview:
    """What preview() shows."""

    colored: Text
    plain: Text
    """The same with brackets instead of colours."""
    num_records: int
    num_samples: int
    refused: str
    """Reasons of refusals with their counts."""


def preview(recipe: Recipe, num_records: int, *, packed: bool = False, raw: bool = False) -> Preview:
    """The first records as they become tokens: what is trained, what the rules changed, what is refused.

    Trained tokens are in colour, or between [[ and ]] without it; those over a border between [~ and ~], unknown ones
    between [? and ?]; a bracket of the data that looks like these follows a backslash. `packed`: as the first rows
    that they would fill if they were all the data. `raw`: a line for each token, with its id, as it stands in the
    vocabulary. Raises DataError when there is no record.
    """
    tracer = Tracer(recipe)
    page = _Page(raw=raw)
    samples: list[TracedSample] = []
    refused: Counter[str] = Counter()
    findings: Counter[str] = Counter()
    notes: NoteCounts = {}
    num_seen = 0
    for num_seen, record in enumerate(islice(read_all(tracer.files), num_records), 1):  # noqa: B007
        seen = tracer.trace(record)
        findings.update(seen.findings)
        refused.update(refusal.reason for refusal in seen.refusals)
        count_notes(notes, seen.notes)
        samples += seen.samples
        _tell(page, seen, packed=packed)
    if not num_seen:
        raise DataError(
            "there is no record in data.train",
            got="only blank lines or empty lists",
            expected="records",
            fix="check the files that data.train names",
        )
    if packed and samples:
        _tell_rows(page, samples, recipe.data.max_tokens)
    _sum_up(page, num_seen, samples, refused, findings)
    for line in tell_notes(notes, num_seen):
        page.line(line)
    return Preview(page.colored, page.plain, num_seen, len(samples), _listed(refused))


def _tell(page: _Page, seen: Traced, *, packed: bool) -> None:
    """A record's samples, and what happened to it. With `packed` its tokens are shown later."""
    for refusal in seen.refusals:
        page.heading(f"{seen.place} refused, {refusal.reason}: {refusal.detail}")
    if not packed:
        for sample in seen.samples:
            page.heading(sample.name + sample.size)
            page.sample(sample)
    told = [f"rules found: {_listed(seen.findings)}"] if seen.findings else []
    told += [f"tags: {', '.join(seen.tags)}"] if seen.tags else []
    if told and packed and not seen.refusals:
        page.heading(seen.place)
    for line in told:
        page.line(line)


def _tell_rows(page: _Page, samples: Sequence[TracedSample], max_tokens: int) -> None:
    lengths = np.array([len(sample.example.input_ids) for sample in samples])
    starts = np.flatnonzero([sample.begins_atom for sample in samples])
    atoms = np.split(np.arange(len(samples)), starts[1:])
    packed = pack(np.add.reduceat(lengths, starts), max_tokens)
    rows = [np.concatenate([atoms[atom] for atom in row]) for row in packed]
    for number, row in enumerate(rows[:_MAX_ROWS], 1):
        page.heading(f"row {number} of {len(rows)}: {len(row)} segments, {lengths[row].sum()} of {max_tokens} tokens")
        for place, index in enumerate(row, 1):
            page.heading(f"segment {place}: {samples[index].name}{samples[index].size}")
            page.sample(samples[index])


def _shown(text: str) -> str:
    """A text that a terminal only shows: control characters as `\\u001b`."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _sum_up(
    page: _Page,
    num_seen: int,
    samples: Sequence[TracedSample],
    refused: Mapping[str, int],
    findings: Mapping[str, int],
) -> None:
    tokens = sum(len(sample.example.input_ids) for sample in samples)
    targets = sum(sample.num_trained for sample in samples)
    trained = f"{targets} of {tokens} tokens trained ({targets / max(tokens, 1):.1%})"
    if any(sample.learnt for sample in samples):
        trained = f"{tokens} tokens"
    counts = dict(zip(COUNTED, counted([sample.example for sample in samples]).sum(axis=1).tolist(), strict=True))
    page.heading(f"certificate: {trained}, {counts['straddles']} straddle")
    for line in _exceptions(counts):
        page.line(line)
    num_atoms = sum(sample.begins_atom for sample in samples)
    what = "pair" if 2 * num_atoms == len(samples) else "group"
    groups = f"{_so_many(num_atoms, what)}, " if num_atoms < len(samples) else ""
    page.line(
        f"{_so_many(num_seen, 'record')}, {groups}{_so_many(len(samples), 'sample')}"
        + (f"; refused: {_listed(refused)}" if refused else "; none refused")
    )
    if findings:
        page.line(f"rules found: {_listed(findings)}")


def _so_many(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} x {number}" if number > 1 else name for name, number in sorted(counts.items()))


def certificate(manifest: Mapping[str, Any]) -> list[str]:
    """What a store's manifest says about its masks and about what was left out, one line each."""
    counts, limit = manifest["counts"], manifest["max_tokens"]
    answers = manifest.get("inputs", {}).get("answers")
    samples = f"{SAMPLE_NAMES.get(answers or 'one', 'sample')}s"
    refused = sum(counts["refused"].values())
    lines = []
    if manifest.get("sampled"):
        lines.append(f"only the first {counts['records_read']:,} records of a stream are counted here")
    lines.append(f"{counts['examples']:,} {samples} of {counts['records_read']:,} records, {refused:,} refused")
    if answers == "pair":
        lines.append("each is a preferred and a rejected answer to one prompt, in one row; tokens are those of both")
    if answers == "ranked":
        lines.append("each is all answers to one prompt, the best first, in one row; tokens are those of all")
    occurrences = counts.get("occurrences", counts["examples"])
    if "matched_texts" in counts:
        more = counts["matched_texts"] - 2 * occurrences
        lines.append(f"each is a query and a text that matches it, in one row; beside them {more:,} that do not")
    if occurrences != counts["examples"]:
        lines.append(f"{occurrences:,} {samples} in an epoch, with repeats")
    if "rows" in counts:
        lines.append(f"{counts['rows']:,} rows of {limit:,} tokens, {counts['fill']:.2%} full")
    roles = counts.get("target_tokens_by_role", {})
    by_role = f": {', '.join(f'{name} {n:,}' for name, n in roles.items())}" if roles else ""
    if answers not in LEARNT:
        lines.append(
            f"{counts['target_tokens']:,} of {counts['tokens']:,} tokens trained "
            f"({_share(counts['target_tokens'], counts['tokens'])}){by_role}"
        )
    for name, told in sorted(counts.get("categories", {}).items(), key=lambda item: item[0] != "labels"):
        lines.append(f"{name}: " + ", ".join(f"{label} {number:,}" for label, number in told.items()))
    if judged := counts.get("judged"):
        lines.append(f"answers: {judged['wanted']:,} wanted, {judged['unwanted']:,} unwanted")
    lines.append(f"{counts['straddles']:,} tokens straddle the border of a trained text")
    lines += _exceptions(counts)
    if counts["truncated"]:
        removed = {role: counts.get(f"removed_{role}", 0) for role in ROLES}
        listed = ", ".join(f"{role} {number:,}" for role, number in removed.items() if number)
        lines.append(f"{counts['truncated']:,} samples cut at {limit:,} tokens" + (f": {listed}" if listed else ""))
    sources = counts.get("sources", {})
    if len(sources) > 1:
        lines += [_source_line(name, source, counts["target_tokens"], samples) for name, source in sources.items()]
    for reason, count in counts["refused"].items():
        first = manifest["refusals"][reason][0]
        lines.append(f"refused {count:,} x {reason}; first: {first['where']}: {first['detail']}")
    lines += tell_notes(counts.get("notes", {}), counts["records_read"])
    if names := unused(manifest.get("inputs", {}).get("ignore_columns", ()), counts.get("notes", {})):
        lines.append(f"data.ignore_columns names what no record has: {', '.join(names)}")
    dropped = counts.get("dropped", {})
    reported = {rule: n for rule, n in counts.get("selected", {}).items() if n != dropped.get(rule)}
    for what, found in (("dropped", dropped), ("found", {**counts.get("findings", {}), **reported})):
        listed = ", ".join(f"{name} {n:,}" for name, n in sorted(found.items()) if n)
        lines += [f"{what} by rules: {listed}"] if listed else []
    if proof := manifest.get("proof"):
        lines.append(f"unpacked again, all {proof['unpacked_samples']:,} {samples} are equal; masks {proof['masks']}")
    return lines


def _exceptions(counts: Mapping[str, Any]) -> list[str]:
    """Lines for what most data does not have: tokens cut at an answer's beginning, and unknown ones."""
    lines = []
    if cuts := counts.get("cuts", 0):
        lines.append(f"{cuts:,} answers begin with a token cut from the prompt's, as when the model generates")
    if unknown := counts.get("unknown", 0):
        lines.append(
            f"{unknown:,} unknown tokens: the tokenizer lacks letters of the text (`raysft preview` shows them)"
        )
    return lines


def _source_line(name: str, source: Mapping[str, int], target_tokens: int, samples: str) -> str:
    cut = f", {source['truncated']:,} cut" if source["truncated"] else ""
    part = _share(source["target_tokens"], target_tokens)
    return (
        f"source {name}: {source['samples']:,} {samples} of {source['records']:,} records "
        f"({source['refused']:,} refused), {source['tokens']:,} tokens, {part} of the trained ones{cut}"
    )


def _share(part: int, whole: int) -> str:
    return f"{part / max(whole, 1):.1%}"
