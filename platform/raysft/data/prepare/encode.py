"""What happens to the records of one read task: read, formatted, put through the rules, rendered, tokenized.

No Ray here, so the same functions run in a test, in a Ray task or in this process. Nothing is raised for a bad
record: it becomes a Reject. The order of samples is the order of records.
"""

from __future__ import annotations

import gc
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raysft.data.formats.conversations import read_raw, reading_of
from raysft.data.notes import NoteCounts, count_notes
from raysft.data.prepare.sample_columns import SAMPLES, SEGMENTS
from raysft.data.read.sources import RawRecord, ReadTask, read
from raysft.data.records import Answers, Conversation, Note, Refusal
from raysft.data.rules.keys import KeyMaker, key_maker
from raysft.data.rules.record.cleaner import Cleaner
from raysft.data.store.mixture_columns import group_of, valid_text, value_of, weight_of
from raysft.data.store.packed_rows import lists
from raysft.data.text.backend import Backend, BackendJson
from raysft.data.text.chat import Example, Template
from raysft.data.text.fitting import COUNTED, counted
from raysft.data.text.pairs import encode_answers
from raysft.data.text.rendering import render_last
from raysft.data.text.template import template_note
from raysft.recipe.cleaning import AUGMENTING
from raysft.recipe.columns import Classes, Field
from raysft.recipe.sections.data import DataSection

_BATCH = 256


@dataclass(frozen=True)
class EncodeStage:
    """Everything a task needs to know. `held_out` is the share of samples that are held out; 1: all."""

    tokenizer: BackendJson
    template: Template
    data: DataSection
    held_out: float
    seed: int
    rules_digest: str = ""
    """Digest of the rules and of the files that they read; a process that has others loaded reads them again."""
    answers: Answers = "one"
    fields: tuple[Field, ...] = ()
    """What the records say beside their text: a value an atom, or a list with one of each of its segments."""
    categories: tuple[Classes, ...] = ()
    """What they say of a few values; their labels first."""

    @property
    def has_atoms(self) -> bool:
        """Is an example several samples that belong together?"""
        return self.answers in ("pair", "ranked", "judged", "matched")


@dataclass(frozen=True)
class Reject:
    """A record that became no sample. `malformed`: refused as a record, before rules, templates and lengths."""

    sample_id: int
    source: str
    held_out: bool
    refusal: Refusal
    malformed: bool
    record: Any


@dataclass(frozen=True)
class EncodedBatch:
    """Some records of a task, encoded."""

    samples: pa.Table
    rejects: list[Reject]
    findings: Counter[str]
    """Hits of the rules by name, of training and held-out records together."""
    num_records: Counter[tuple[str, bool]]
    """Records read by (source, held out)."""
    notes: tuple[NoteCounts, NoteCounts]
    """What was not read of training records, and of held-out ones."""


@dataclass(frozen=True)
class _Tools:
    """What a process makes once of a stage."""

    tokenizer: Backend
    cleaners: tuple[Cleaner, Cleaner]
    """(for training records, for held-out records, which are not augmented)."""
    keys: KeyMaker


def encode_task(task: ReadTask, stage: EncodeStage) -> Iterator[EncodedBatch]:
    """The task's records in batches, in their order. Raises DataError for a file that cannot be read."""
    tools = _tools(stage)
    records = read(task)
    while batch := list(islice(records, _BATCH)):
        with _collector_paused():
            encoded = _encode_batch(batch, task, stage, tools)
        yield encoded


@contextmanager
def _collector_paused() -> Iterator[None]:
    """A batch makes some hundred thousand small objects in no cycles: looking for cycles took 4% of its time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def sample_schema(stage: EncodeStage) -> pa.Schema:
    """The columns of a stage's samples."""
    return _schema(stage, _tools(stage).keys)


def _schema(stage: EncodeStage, keys: KeyMaker) -> pa.Schema:
    own = [pa.field(field.name, _type(field)) for field in stage.fields]
    return pa.schema([*SAMPLES, *([SEGMENTS] if stage.has_atoms else []), *own, *keys.schema])


def _type(field: Field) -> pa.DataType:
    return pa.float32() if field.width == 1 and field.per == "atom" else pa.list_(pa.float32())


def goes_to_held_out(conversation: Conversation, share: float) -> bool:
    """By a hash of everything before the last answer: one prompt never lies on both sides."""
    if share in (0, 1):
        return share == 1
    prompt = [
        [message.role, message.content, message.tool_calls]
        for message in conversation.messages[: conversation.last_assistant]
    ]
    if not prompt:  # plain text
        prompt = [["text", conversation.messages[-1].content, ()]]
    digest = hashlib.sha256(json.dumps([prompt, conversation.tools], sort_keys=True).encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def _tools(stage: EncodeStage) -> _Tools:
    key = (
        stage.tokenizer,
        stage.template,
        stage.data.model_dump_json(),
        stage.seed,
        stage.rules_digest,
        stage.answers,
    )
    if key not in _MADE:
        _MADE.clear()
        _MADE[key] = _make_tools(stage)
    return _MADE[key]


def _make_tools(stage: EncodeStage) -> _Tools:
    specials, rules = stage.template.special_tokens.texts, stage.data.rules
    plain = [rule for rule in rules if not isinstance(rule, AUGMENTING)]
    return _Tools(
        tokenizer=stage.tokenizer.load(),
        cleaners=(
            Cleaner(rules, seed=stage.seed, special_tokens=specials),
            Cleaner(plain, seed=stage.seed, special_tokens=specials),
        ),
        keys=key_maker(rules, stage.answers),
    )


_MADE: dict[tuple[Any, ...], _Tools] = {}
"""The tools of the newest stage: a process works on one store at a time."""


def _encode_batch(batch: Sequence[RawRecord], task: ReadTask, stage: EncodeStage, tools: _Tools) -> EncodedBatch:
    """Format, clean and encode some records of one task."""
    file, whole = task.file, stage.held_out == 1
    reading = reading_of(file, stage.data, stage.answers, stage.categories)
    notes: tuple[NoteCounts, NoteCounts] = ({}, {})
    weighted = stage.data.mixture.weight_column
    conversations: list[Conversation] = []
    sides: list[bool] = []
    origins: list[Any] = []
    rejects: list[Reject] = []
    findings: Counter[str] = Counter()
    num_records: Counter[tuple[str, bool]] = Counter()
    for raw in batch:
        found = read_raw(raw, file, reading)
        if isinstance(found, Refusal):
            num_records[file.source, whole] += 1
            rejects.append(Reject(raw.sample_id, file.source, whole, found, True, raw.value))
            continue
        held_out = goes_to_held_out(found[0], stage.held_out)
        num_records[file.source, held_out] += 1
        if found[0].notes:
            count_notes(notes[held_out], found[0].notes)
        if weighted is not None and found[0].metadata.get(weighted) is not None:
            count_notes(notes[held_out], [Note("weighted", weighted)])
        if stage.template.with_tools is not None:
            count_notes(notes[held_out], [template_note(stage.template, found[0])])
        for conversation in found:
            cleaned = tools.cleaners[held_out].apply(conversation)
            if cleaned.findings:
                findings.update(cleaned.findings)
            if cleaned.refusal is not None:
                rejects.append(Reject(raw.sample_id, file.source, held_out, cleaned.refusal, False, raw.value))
            conversations += cleaned.conversations
            sides += [held_out] * len(cleaned.conversations)
            origins += [raw.value] * len(cleaned.conversations)
    results = encode_answers(
        conversations,
        tools.tokenizer,
        stage.template,
        stage.answers,
        train_on=stage.data.train_on,
        max_tokens=stage.data.max_tokens,
        over_long=stage.data.over_long,
        stop=stage.data.stop,
        categories=stage.categories,
    )
    kept: list[tuple[int, Example]] = []
    for index, result in enumerate(results):
        if isinstance(result, Refusal):
            conversation = conversations[index]
            rejects.append(Reject(conversation.id, conversation.source, sides[index], result, False, origins[index]))
        else:
            kept += [(index, example) for example in result]
    samples = _table(kept, conversations, sides, stage, tools.keys)
    return EncodedBatch(samples, rejects, findings, num_records, notes)


def _table(
    kept: Sequence[tuple[int, Example]],
    conversations: Sequence[Conversation],
    sides: Sequence[bool],
    stage: EncodeStage,
    keys: KeyMaker,
) -> pa.Table:
    """Columns of the examples that are left."""
    examples = [example for _, example in kept]
    owners = [conversations[index] for index, _ in kept]
    held_out = [sides[index] for index, _ in kept]
    ids, ends = _flat([example.input_ids for example in examples], np.int32)
    target, _ = _flat([example.target for example in examples], np.float32)
    sample_ids = np.fromiter((owner.id for owner in owners), np.int64, len(owners))
    mask = (target != 0).astype(np.uint8)
    counts = counted(examples)
    mixture = stage.data.mixture

    def is_asked(owner: Conversation) -> bool:
        return stage.answers != "matched" and owner.messages[-1].role != "text"

    asked = [
        render_last(owner, stage.template) if out and is_asked(owner) else (None, None)
        for owner, out in zip(owners, held_out, strict=True)
    ]
    prompts = [prompt for prompt, _ in asked]
    answers = [answer if answer is None else valid_text(answer) for _, answer in asked]
    columns = {
        "sample_id": pa.array(sample_ids),
        "held_out": pa.array(held_out, pa.bool_()),
        "input_ids": lists(pa.array(ids), ends),
        "target": lists(pa.array(mask), ends),
        "weight": pa.array([weight_of(owner, mixture.weight_column) for owner in owners], pa.float32()),
        "num_tokens": pa.array(np.diff(ends, prepend=0), pa.int32()),
        "num_targets": pa.array(np.add.reduceat(mask, np.concatenate(([0], ends[:-1])), dtype=np.int32))
        if len(ends)
        else pa.array([], pa.int32()),
        **{name: pa.array(column, pa.int32()) for name, column in zip(COUNTED, counts, strict=True)},
        "truncated": pa.array([example.truncated for example in examples], pa.bool_()),
        "plain_text": pa.array([owner.messages[-1].role == "text" for owner in owners], pa.bool_()),
        "group": pa.array([group_of(owner, mixture.balance_by) for owner in owners], pa.string()),
        "value": pa.array([value_of(owner, mixture.curriculum) for owner in owners], pa.float64()),
        "prompt": pa.array(prompts, pa.string()),
        "answer": pa.array(answers, pa.string()),
        **keys.columns(owners),
    }
    if stage.has_atoms:
        columns["segments"] = pa.array([example.segments for example in examples], SEGMENTS.type)
    for field in stage.fields:
        columns[field.name] = pa.array([example.values[field.name] for example in examples], _type(field))
    return pa.table(columns, schema=_schema(stage, keys))


def _flat(pieces: Sequence[NDArray[Any]], dtype: type) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """(all pieces in one array, where each ends)."""
    lengths = np.fromiter(map(len, pieces), np.int64, len(pieces))
    flat = np.concatenate(pieces) if len(pieces) else np.zeros(0, dtype)
    return flat.astype(dtype, copy=False), np.cumsum(lengths)
