"""One read task looked at for the survey: the facts of its records, and the keys of those that are kept. No Ray.

Every record is looked at twice. As it was found: language, quality, personal data and the like, by rules that only
report, whatever the recipe's own rules are. And as it will be trained: what the recipe's rules keep, its tokens,
groups and keys. Augmentation is left out, and so are mixture and held-out shares: the report is about the records.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

import numpy as np
import pyarrow as pa

from raysft.data.formats import detect_format, rename
from raysft.data.formats.conversations import read_raw, reading_of
from raysft.data.notes import count_notes
from raysft.data.on_ray import Item
from raysft.data.read.sources import RawRecord, ReadTask, SourceFile, read
from raysft.data.records import Answers, Conversation, Note, Refusal
from raysft.data.report.survey_facts import (
    Facts,
    count,
    count_conversation,
    count_groups,
    count_length,
    count_refusal,
    new_facts,
)
from raysft.data.rules.keys import KeyMaker, key_maker
from raysft.data.rules.record.cleaner import Cleaner
from raysft.data.rules.record.quality import quality_components, quality_score
from raysft.data.store.shards import shard_path
from raysft.data.text.backend import Backend, BackendJson
from raysft.data.text.chat import Template
from raysft.data.text.pairs import encode_answers
from raysft.recipe.cleaning import (
    AUGMENTING,
    WHOLE_DATA,
    Language,
    Pii,
    Quality,
    Repetition,
    Rule,
    SpecialTokensRule,
    Symbols,
)
from raysft.recipe.columns import Classes
from raysft.recipe.sections.data import DataSection
from raysft.storage import write_stream

_LOOKING: tuple[Rule, ...] = (
    Language(rule="language", action="report"),
    Quality(rule="quality", action="report"),
    Repetition(rule="repetition", action="report"),
    Symbols(rule="symbols", action="report"),
    Pii(rule="pii", action="report"),
    SpecialTokensRule(rule="special_tokens", action="report"),
)
"""Every record goes through these as it was found."""
_BATCH = 256
_NO_LIMIT = 1 << 40


@dataclass(frozen=True)
class SurveyPlan:
    """Everything a task needs to know."""

    tokenizer: BackendJson
    template: Template
    data: DataSection
    seed: int
    attributes: frozenset[str]
    """Protected columns, in lower case."""
    comparing: tuple[Rule, ...]
    """Whole-data rules that keys are made for."""
    work: str
    answers: Answers = "one"
    categories: tuple[Classes, ...] = ()


@dataclass(frozen=True)
class _Tools:
    """What a process makes once."""

    tokenizer: Backend
    looking: Cleaner
    cleaning: Cleaner
    keys: KeyMaker


def look_item(item: Item, *, files: Sequence[SourceFile], plan: SurveyPlan) -> Facts:
    """`look` as a task of Ray Data."""
    return survey_part(item["index"], ReadTask(files[item["file"]], item["start"], item["stop"]), plan)


def survey_part(index: int, task: ReadTask, plan: SurveyPlan) -> Facts:
    """The facts of task `index`. The keys of what is kept become a shard in the work directory."""
    tools, facts = _tools(plan), new_facts()
    shape = pa.schema([("sample_id", pa.int64()), ("held_out", pa.bool_()), *tools.keys.schema])
    records = read(task)
    with write_stream(shard_path(plan.work, index)) as stream, pa.ipc.new_file(stream, shape) as writer:
        while batch := list(islice(records, _BATCH)):
            kept = _look(batch, task.file, plan, tools, facts)
            own = {"sample_id": [owner.id for owner in kept], "held_out": [False] * len(kept)}
            writer.write_table(pa.table({**own, **tools.keys.columns(kept)}, schema=shape))
    return facts


def _look(
    batch: Sequence[RawRecord], file: SourceFile, plan: SurveyPlan, tools: _Tools, facts: Facts
) -> list[Conversation]:
    """Count a batch; returns what the recipe's rules keep and the template can render."""
    candidates: list[Conversation] = []
    origins: list[tuple[Conversation, float]] = []
    for raw in batch:
        facts["records"] += 1
        for conversation in _conversations(raw, file, plan, facts):
            components = quality_components(conversation)
            quality = quality_score(components)
            count_conversation(facts, conversation, components)
            for name in tools.looking.apply(conversation).findings:
                count(facts["found"], name)
            cleaned = tools.cleaning.apply(conversation)
            for name in cleaned.findings:
                count(facts["findings"], name)
            if cleaned.refusal is not None:
                count_refusal(facts, cleaned.refusal.reason, raw.sample_id)
            if not cleaned.conversations:
                count_groups(facts, conversation, plan.attributes, quality=quality, kept=False)
            candidates += cleaned.conversations
            origins += [(conversation, quality)] * len(cleaned.conversations)
    results = encode_answers(
        candidates,
        tools.tokenizer,
        plan.template,
        plan.answers,
        train_on=plan.data.train_on,
        max_tokens=_NO_LIMIT,
        over_long="drop",
        stop="accept",
        categories=plan.categories,
    )
    kept: list[Conversation] = []
    for candidate, (origin, quality), result in zip(candidates, origins, results, strict=True):
        is_kept = not isinstance(result, Refusal)
        count_groups(facts, origin, plan.attributes, quality=quality, kept=is_kept)
        if isinstance(result, Refusal):
            count_refusal(facts, result.reason, candidate.id)
            continue
        kept.append(candidate)
        facts["kept"] += 1
        facts["straddles"] += result[0].straddles
        tokens, targets = len(result[0].input_ids), int(np.count_nonzero(result[0].target))
        count_length(facts, tokens, targets, plan.data.max_tokens)
    return kept


def _conversations(raw: RawRecord, file: SourceFile, plan: SurveyPlan, facts: Facts) -> tuple[Conversation, ...]:
    """A record's conversations; its format, its notes or its refusal are counted."""
    if not isinstance(raw.value, Refusal):
        kind = file.format
        if kind == "auto":
            detected = detect_format(rename(raw.value, file.columns))
            kind = "unknown" if isinstance(detected, Refusal) else detected
        count(facts["formats"], kind)
    found = read_raw(raw, file, reading_of(file, plan.data, plan.answers, plan.categories))
    if isinstance(found, Refusal):
        count_refusal(facts, found.reason, raw.sample_id)
        return ()
    count_notes(facts["notes"], [Note(note.kind, note.name) for note in found[0].notes])  # no text of a record
    return found


def _tools(plan: SurveyPlan) -> _Tools:
    specials = plan.template.special_tokens.texts
    rules = plan.data.model_dump_json(include={"rules"})
    return _make_tools(plan.tokenizer, rules, plan.seed, specials, plan.comparing, plan.answers)


@lru_cache(maxsize=1)
def _make_tools(
    tokenizer: BackendJson,
    rules: str,
    seed: int,
    specials: tuple[str, ...],
    comparing: tuple[Rule, ...],
    answers: Answers,
) -> _Tools:
    parsed = DataSection.model_validate_json(f'{{"train": ["-"], {rules[1:]}').rules
    own = [rule for rule in parsed if not isinstance(rule, (*AUGMENTING, *WHOLE_DATA))]
    return _Tools(
        tokenizer=tokenizer.load(),
        looking=Cleaner(_LOOKING, seed=seed, special_tokens=specials),
        cleaning=Cleaner(own, seed=seed, special_tokens=specials),
        keys=key_maker(comparing, answers),
    )
