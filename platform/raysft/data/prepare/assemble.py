"""From shards to a store's contents and its manifest: which samples, their counts, prompts, rejects. No Ray.

`choose` makes the sequence of samples of an epoch out of the shards, without the samples that whole-data rules
dropped; the certificate's counts are those of the sequence.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raysft.data.prepare.class_counts import count_categories, count_judged
from raysft.data.prepare.fingerprint import Side
from raysft.data.prepare.sample_columns import SEGMENTS
from raysft.data.read.sources import ReadTask, SourceFile, describe_line, describe_sample, source_names
from raysft.data.rules.whole_data import Selection
from raysft.data.store.manifest import REJECTS
from raysft.data.store.mixture import Samples, no_such_column, sequence
from raysft.data.store.packed_rows import sample_values
from raysft.data.store.shards import SIDES, Summary, merge_summaries, read_shard, rejects_path, take_samples
from raysft.data.text.fitting import COUNTED
from raysft.errors import DataError, PlatformError, redacted
from raysft.recipe.columns import TARGET, WANTED
from raysft.recipe.schema import Recipe
from raysft.storage import join, read_lines, write_stream

MAX_PROMPTS = 1024

_COLUMNS = (
    *("sample_id", "held_out", "num_tokens", "num_targets", "truncated", "plain_text", "group", "value"),
    *COUNTED,
)


@dataclass(frozen=True)
class ChosenSamples:
    """The samples of a store in the order in which they are packed; one may occur several times."""

    shards: NDArray[np.int64]
    rows: NDArray[np.int64]
    counts: dict[str, Any]
    """The certificate: see make_manifest."""


def choose(
    recipe: Recipe,
    side: Side,
    locations: Sequence[str],
    tasks: Sequence[ReadTask],
    summaries: Sequence[Summary],
    selection: Selection,
) -> ChosenSamples:
    """The side's sequence. Raises DataError when nothing is left."""
    summary = merge_summaries(summaries)
    table, shards, rows = _side_samples(side, locations, selection)
    names = ["eval"] if side.inputs["held_out"] == 1 else source_names(recipe.data.sources)
    of_shard = np.array([names.index(task.file.source) for task in tasks], np.int64)
    if not len(table):
        raise nothing_left(side, summary, selection)
    weighted = recipe.data.mixture.weight_column
    if side.name == "train" and weighted is not None and "weighted" not in summary["sides"]["train"]["notes"]:
        raise no_such_column(weighted)
    columns = {name: table.column(name).to_numpy(zero_copy_only=False) for name in _COLUMNS[2:] if name != "group"}
    source = of_shard[shards]
    order = np.arange(len(table))
    if side.name == "train":
        samples = Samples(
            id=table.column("sample_id").to_numpy(),
            source=source,
            length=columns["num_tokens"],
            group=_codes(table.column("group")),
            key=columns["value"],
        )
        order = sequence(samples, recipe.data.sources, recipe.data.mixture, recipe.seed)
    used = {name: values[order] for name, values in columns.items() if name != "value"}
    counts = _counts(summary, side, {name: source[order] == i for i, name in enumerate(names)}, used)
    values = {
        one: sample_values(take_samples(locations, shards[order], rows[order], [one.field.name]), one.field)
        for one in side.stage.categories
    }
    counts["categories"] = count_categories(values, is_learnt=side.name == "train")
    if side.stage.answers == "judged":
        judged = sample_values(take_samples(locations, shards[order], rows[order], [WANTED.name]), WANTED)
        counts["judged"] = count_judged(judged, is_learnt=side.name == "train")
    if side.stage.answers == "matched":
        counts["matched_texts"] = _num_texts(locations, shards[order], rows[order])
    counts["selected"] = dict(selection.counts) if side.name == "train" else {}
    counts["dropped"] = _dropped(selection) if side.name == "train" else {}
    counts["occurrences"] = len(order)
    counts["examples"] = len(np.unique(order))
    return ChosenSamples(shards[order], rows[order], counts)


def _num_texts(locations: Sequence[str], shards: NDArray[np.int64], rows: NDArray[np.int64]) -> int:
    """Segments of the atoms of an epoch."""
    return len(take_samples(locations, shards, rows, [SEGMENTS.name]).column(0).combine_chunks().flatten())


def make_manifest(
    side: Side, chosen: ChosenSamples, parts: list[dict[str, Any]], *, num_prompts: int, sums: dict[str, str | None]
) -> dict[str, Any]:
    """Everything about a store; `sums`: of its other files, by their names in it. Raises PlatformError when the parts
    do not hold the chosen samples."""
    num_rows, num_samples = (sum(part[name] for part in parts) for name in ("rows", "samples"))
    if num_samples != len(chosen.rows):
        raise PlatformError(
            "the parts do not hold the samples that were chosen",
            got=f"{num_samples} samples",
            expected=f"{len(chosen.rows)}",
            fix="run the command again; if it stays, report it",
        )
    max_tokens = side.inputs["max_tokens"]
    counts = {**chosen.counts, "rows": num_rows, "fill": round(chosen.counts["tokens"] / (num_rows * max_tokens), 6)}
    refusals = counts.pop("first_refusals")
    return {
        "fingerprint": side.fingerprint,
        "inputs": side.inputs,
        "max_tokens": max_tokens,
        "tokenizer_hash": side.inputs["tokenizer"],
        "template_hash": side.inputs["template"],
        "files": [redacted(file.location) for file in side.files],
        "counts": counts,
        "proof": {"unpacked_samples": num_samples, "masks": _digest([part["masks"] for part in parts])},
        "refusals": refusals,
        "prompts": num_prompts,
        "fields": [asdict(field) for field in (TARGET, *side.stage.fields)],
        **sums,
        "parts": parts,
    }


def first_prompts(chosen: ChosenSamples, locations: Sequence[str]) -> list[dict[str, Any]]:
    """The first held-out prompts with their answers, for generation."""
    first = slice(0, MAX_PROMPTS)
    table = take_samples(locations, chosen.shards[first], chosen.rows[first], ["sample_id", "prompt", "answer"])
    return [line for line in table.to_pylist() if line["prompt"] is not None]


def write_rejects(
    side: Side, locations: Sequence[str], summaries: Sequence[Summary], selection: Selection
) -> str | None:
    """rejects.jsonl of the store: refused records with their reasons, then the samples that rules dropped.

    Returns its sha256; None: there is nothing to write.
    """
    refused = [index for index, summary in enumerate(summaries) if summary["sides"][side.name]["refused"]]
    if not refused and (side.name != "train" or not len(selection.dropped)):
        return None
    digest = hashlib.sha256()
    with write_stream(join(side.location, REJECTS)) as stream:
        for line in _reject_lines(side, locations, refused, selection):
            digest.update(line.encode())
            stream.write(line.encode())
    return digest.hexdigest()


def _reject_lines(
    side: Side, locations: Sequence[str], refused: Sequence[int], selection: Selection
) -> Iterator[str]:
    for index in refused:
        for line in read_lines(rejects_path(locations[index])):
            if json.loads(line)["side"] == side.name:
                yield line + "\n"
    for dropped in _dropped_lines(side, locations, selection) if side.name == "train" else ():
        yield json.dumps(dropped, ensure_ascii=False) + "\n"


def nothing_left(side: Side, summary: Summary, selection: Selection) -> DataError:
    """Why a store would be empty."""
    counts, share = summary["sides"][side.name], side.inputs["held_out"]
    total = sum(summary["sides"][name]["records"] for name in SIDES)
    if not counts["records"] and 0 < share < 1:
        return DataError(
            "no sample is held out" if side.name == "eval" else "every sample is held out",
            got=f"data.eval_fraction {share} of few prompts",
            expected="at least one sample on each side",
            fix="change data.eval_fraction, or name held-out files in data.eval",
        )
    first = {reason: _first(found[0], side.files) for reason, found in counts["first"].items()}
    reasons = [f"{count} x {reason} (first: {first[reason]})" for reason, count in _most(counts["refused"])]
    if side.name == "train":
        reasons += [f"{count} x {reason}" for reason, count in _dropped(selection).items()]
    return DataError(
        f"no sample is left of {total} records",
        got="; ".join(reasons) or "files without a record",
        expected="records of a known format that fit the rules, the template and data.max_tokens",
        fix="see the first example of each reason; set data.format, data.columns, data.rules or data.max_tokens",
    )


def _side_samples(
    side: Side, locations: Sequence[str], selection: Selection
) -> tuple[pa.Table, NDArray[np.int64], NDArray[np.int64]]:
    """(columns, shard, row) of the side's samples that no rule dropped, in the order of the records."""
    gone: dict[int, NDArray[np.int64]] = {}
    if side.name == "train" and len(selection.dropped):
        of_shard, of_row = (selection.dropped.column(name).to_numpy() for name in ("shard", "row"))
        gone = {int(shard): of_row[of_shard == shard] for shard in np.unique(of_shard)}
    tables, shards, rows = [], [], []
    for index, location in enumerate(locations):
        table = read_shard(location, _COLUMNS)
        mine = table.column("held_out").to_numpy(zero_copy_only=False) == (side.name == "eval")
        mine[gone.get(index, np.zeros(0, np.int64))] = False
        tables.append(table.filter(pa.array(mine)))
        rows.append(np.flatnonzero(mine))
        shards.append(np.full(len(rows[-1]), index, np.int64))
    return pa.concat_tables(tables), np.concatenate(shards), np.concatenate(rows)


def _counts(
    summary: Summary, side: Side, of_source: dict[str, NDArray[np.bool_]], used: dict[str, NDArray[Any]]
) -> dict[str, Any]:
    """The certificate's counts: what was read and refused, and what an epoch holds, whole and by source."""
    read = summary["sides"][side.name]
    sources = {}
    for name, mine in of_source.items():
        seen = summary["sources"].get(name, {}).get(side.name, {})
        sources[name] = {
            "records": seen.get("records", 0),
            "refused": seen.get("refused", 0),
            "samples": int(mine.sum()),
            "tokens": int(used["num_tokens"][mine].sum(dtype=np.int64)),
            "target_tokens": int(used["num_targets"][mine].sum(dtype=np.int64)),
            "truncated": int(used["truncated"][mine].sum(dtype=np.int64)),
        }
    targets = int(used["num_targets"].sum(dtype=np.int64))
    of_text = int(used["num_targets"][used["plain_text"]].sum(dtype=np.int64))
    return {
        "records_read": read["records"],
        "refused": dict(_most(read["refused"])),
        "findings": dict(sorted(summary["findings"].items())),
        "notes": read["notes"],
        "truncated": int(used["truncated"].sum(dtype=np.int64)),
        **{name: int(used[name].sum(dtype=np.int64)) for name in COUNTED},
        "tokens": int(used["num_tokens"].sum(dtype=np.int64)),
        "target_tokens": targets,
        "target_tokens_by_role": {"assistant": targets - of_text, "text": of_text}
        if of_text
        else {"assistant": targets},
        "sources": sources,
        "first_refusals": {
            reason: [{"where": describe_line(r["sample_id"], side.files), "detail": r["detail"]} for r in rejects]
            for reason, rejects in read["first"].items()
        },
    }


def _codes(values: pa.ChunkedArray) -> NDArray[np.int64]:
    """A number per distinct value, -1 for none."""
    codes = values.combine_chunks().dictionary_encode().indices
    return np.asarray(pc.fill_null(codes, -1).to_numpy(zero_copy_only=False), dtype=np.int64)


def _digest(hashes: Sequence[str]) -> str:
    return hashlib.sha256("".join(hashes).encode()).hexdigest()[:16]


def _first(reject: dict[str, Any], files: Sequence[SourceFile]) -> str:
    return f"{describe_line(reject['sample_id'], files)}: {reject['detail']}"


def _most(refused: Counter[str]) -> list[tuple[str, int]]:
    return sorted(refused.items(), key=lambda item: (-item[1], item[0]))


def _dropped(selection: Selection) -> dict[str, int]:
    return dict(_most(Counter(selection.dropped.column("reason").to_pylist())))


def _dropped_lines(side: Side, locations: Sequence[str], selection: Selection) -> list[dict[str, Any]]:
    lines = []
    for shard in sorted(set(selection.dropped.column("shard").to_pylist())):
        ids = read_shard(locations[shard], ["sample_id"]).column("sample_id")
        for line in selection.dropped.filter(pc.equal(selection.dropped.column("shard"), shard)).to_pylist():
            where = describe_sample(ids[line["row"]].as_py(), side.files)
            like = describe_sample(line["like"], side.files) if line["like"] >= 0 else None
            lines.append({"file": where, "side": side.name, "reason": line["reason"], "like": like})
    return lines
