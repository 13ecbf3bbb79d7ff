"""Keys of one conversation, by which whole-data rules compare records without their texts. Pure.

    exact      hash of the whole text, the reasoning and the tools, without case and white space; of a pair with the
               rejected answer, as are signature and contaminated
    prompt     hash of the tools and everything before the last answer (of all of a plain text)
    answer     hash of the last answer
    signature  MinHash of the text's shingles (Broder 1997, "On the resemblance and containment of documents")
    contaminated  does it share a word n-gram with a benchmark? (ngrams.py)

Only the keys that the recipe's rules compare are made. What follows from them is whole_data.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from rensa import RMinHash

from raysft.data.read.contents import content
from raysft.data.read.sources import expand
from raysft.data.records import Answers, Candidate, Conversation, Message, Refusal, preference, ranking
from raysft.data.rules.ngrams import UNSPACED, Benchmarks, read_benchmarks, stable_hash
from raysft.recipe.cleaning import (
    WHOLE_DATA,
    Conflicts,
    Contamination,
    ExactDuplicates,
    Leakage,
    NearDuplicates,
    Rule,
)

_SEED = 1
_WORDS = re.compile(f"[{UNSPACED}]|[^\\s{UNSPACED}]+")


@dataclass(frozen=True)
class KeyMaker:
    """Makes the key columns that some rules need."""

    exact: bool
    prompt: bool
    near: NearDuplicates | None
    benchmarks: Benchmarks | None
    answers: Answers = "one"

    @property
    def schema(self) -> list[pa.Field]:
        """The columns, none when no rule compares records."""
        fields = []
        if self.exact:
            fields.append(pa.field("exact", pa.int64()))
        if self.prompt:
            fields += [pa.field("prompt_key", pa.int64()), pa.field("answer_key", pa.int64())]
        if self.near is not None:
            fields.append(pa.field("signature", pa.binary(4 * self.near.num_hashes)))
        if self.benchmarks is not None:
            fields.append(pa.field("contaminated", pa.bool_()))
        return fields

    def columns(self, conversations: Sequence[Conversation]) -> dict[str, pa.Array]:
        """The key columns of some conversations."""
        values: dict[str, Any] = {}
        if self.exact or self.prompt:
            turns = [_turns(talk) for talk in conversations]
            values["exact"] = [
                stable_hash("\n".join([*own, *_reasoning(talk), *self._other_side(talk)]))
                for own, talk in zip(turns, conversations, strict=True)
            ]
            # A plain text is its own prompt; the first turn is the tools.
            values["prompt_key"] = [stable_hash("\n".join(own[:-1] if len(own) > 2 else own)) for own in turns]
            values["answer_key"] = [stable_hash(own[-1]) for own in turns]
        if self.near is not None:
            values["signature"] = [signature(self._text(talk), self.near) for talk in conversations]
        if self.benchmarks is not None:
            values["contaminated"] = self.benchmarks.share([self._text(talk) for talk in conversations])
        return {field.name: pa.array(values[field.name], field.type) for field in self.schema}

    def _text(self, talk: Conversation) -> str:
        messages = (*talk.messages, *self._rejected(talk))
        texts = [text for message in messages for text in (message.reasoning, message.content) if text]
        texts += [json.dumps(message.tool_calls) for message in messages if message.tool_calls]
        return "\n".join(texts)

    def _other_side(self, talk: Conversation) -> list[str]:
        """What tells apart records with one answer: of a pair the rejected one, else the judgement, the label."""
        own = {"judged": f"wanted: {talk.wanted}", "labelled": f"label: {talk.label}"}
        return [own[self.answers]] if self.answers in own else _turns_of(self._rejected(talk))

    def _rejected(self, talk: Conversation) -> tuple[Message, ...]:
        """The rejected answer of a pair, all but the best of a list; the texts that do not match a query."""
        if self.answers == "matched":
            others: Sequence[Candidate] = talk.candidates[1:]
        else:
            compared = {"pair": preference, "ranked": ranking}
            found = compared[self.answers](talk) if self.answers in compared else ()
            others = () if isinstance(found, Refusal) else found[1:]
        return tuple(message for candidate in others for message in candidate.messages)


def key_maker(rules: Sequence[Rule], answers: Answers = "one") -> KeyMaker:
    """The keys that these rules need; reads the benchmark files of `contamination`."""
    near = next((rule for rule in rules if isinstance(rule, NearDuplicates)), None)
    against = next((rule for rule in rules if isinstance(rule, Contamination)), None)
    return KeyMaker(
        exact=any(isinstance(rule, ExactDuplicates) for rule in rules),
        prompt=any(isinstance(rule, Leakage | Conflicts) for rule in rules),
        near=near,
        benchmarks=read_benchmarks(against.files, against.ngram) if against else None,
        answers=answers,
    )


def keys_hash(rules: Sequence[Rule]) -> list[Any]:
    """The whole-data rules, for a fingerprint, with the contents of the files that they read."""
    found: list[Any] = []
    for rule in rules:
        if isinstance(rule, WHOLE_DATA):
            files = expand(rule.files) if isinstance(rule, Contamination) else []
            contents = [content(file).sha256 for file in files]
            sketch = [RMinHash.ALGORITHM_VERSION] if isinstance(rule, NearDuplicates) else []
            found.append([rule.model_dump(mode="json"), contents, *sketch])
    return found


def signature(text: str, rule: NearDuplicates) -> bytes:
    """num_hashes little-endian uint32; the share of equal places of two estimates their Jaccard similarity."""
    sketch = RMinHash(num_perm=rule.num_hashes, seed=_SEED)
    sketch.update(shingles(text, rule.ngram))
    return np.array(sketch.digest(), dtype="<u4").tobytes()


def shingles(text: str, ngram: int) -> list[str]:
    """Word n-grams, without case; in scripts without spaces a character is a word; a shorter text is one shingle."""
    text = text.casefold()
    words = text.split() if text.isascii() else _WORDS.findall(text)
    if len(words) < ngram:
        return [" ".join(words)]
    return [" ".join(words[start : start + ngram]) for start in range(len(words) - ngram + 1)]


def _turns(conversation: Conversation) -> list[str]:
    """The tools, then each turn's role and text, without case and with single spaces."""
    tools = json.dumps(conversation.tools, sort_keys=True) if conversation.tools else ""
    return [tools, *_turns_of(conversation.messages)]


def _turns_of(messages: Sequence[Message]) -> list[str]:
    found = []
    for message in messages:
        calls = json.dumps(message.tool_calls, sort_keys=True) if message.tool_calls else ""
        found.append(f"{message.role}: {' '.join(message.content.casefold().split())}{calls}")
    return found


def _reasoning(conversation: Conversation) -> list[str]:
    """What was thought before the answers. No part of a prompt or an answer: templates drop it from earlier turns."""
    return [" ".join(m.reasoning.casefold().split()) for m in conversation.messages if m.reasoning]
