"""Keys of one conversation, by which whole-data rules compare records without their texts. Pure.

    exact      hash of the whole text, without case and white space
    prompt     hash of everything before the last answer (of all of a plain text)
    answer     hash of the last answer
    signature  MinHash of the text's shingles (Broder 1997, "On the resemblance and containment of documents")
    contaminated  does it share a word n-gram with a benchmark?

Only the keys that the recipe's rules compare are made. What follows from them is select.py.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from rensa import RMinHash

from raysft.data.records import Conversation
from raysft.data.sources import expand, read_all
from raysft.recipe.rules import (
    WHOLE_DATA,
    Conflicts,
    Contamination,
    ExactDuplicates,
    Leakage,
    NearDuplicates,
    Rule,
)
from raysft.storage import read_bytes

_SEED = 1
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
"""Scripts written without spaces: Thai, Lao, Burmese, Khmer, Japanese, Chinese."""


@dataclass(frozen=True)
class KeyMaker:
    """Makes the key columns that some rules need."""

    exact: bool
    prompt: bool
    near: NearDuplicates | None
    ngrams: frozenset[int] | None
    ngram: int

    @property
    def schema(self) -> list[pa.Field]:
        """The columns, none when no rule compares records."""
        wanted = {
            "exact": (self.exact, pa.int64()),
            "prompt_key": (self.prompt, pa.int64()),
            "answer_key": (self.prompt, pa.int64()),
            "signature": (self.near is not None, pa.binary()),
            "contaminated": (self.ngrams is not None, pa.bool_()),
        }
        return [pa.field(name, kind) for name, (is_wanted, kind) in wanted.items() if is_wanted]

    def columns(self, conversations: Sequence[Conversation]) -> dict[str, pa.Array]:
        """The key columns of some conversations."""
        makers: dict[str, Any] = {
            "exact": lambda talk: _hash("\n".join(_turns(talk))),
            "prompt_key": prompt_key,
            "answer_key": lambda talk: _hash(_turns(talk)[-1]),
            "signature": self._signature,
            "contaminated": self._is_contaminated,
        }
        return {
            field.name: pa.array([makers[field.name](talk) for talk in conversations], field.type)
            for field in self.schema
        }

    def _signature(self, conversation: Conversation) -> bytes:
        assert self.near is not None
        return signature(_text(conversation), self.near)

    def _is_contaminated(self, conversation: Conversation) -> bool:
        assert self.ngrams is not None
        return not self.ngrams.isdisjoint(_ngram_hashes(_text(conversation), self.ngram))


def key_maker(rules: Sequence[Rule]) -> KeyMaker:
    """The keys that these rules need; reads the benchmark files of `contamination`."""
    near = next((rule for rule in rules if isinstance(rule, NearDuplicates)), None)
    against = next((rule for rule in rules if isinstance(rule, Contamination)), None)
    return KeyMaker(
        exact=any(isinstance(rule, ExactDuplicates) for rule in rules),
        prompt=any(isinstance(rule, Leakage | Conflicts) for rule in rules),
        near=near,
        ngrams=_benchmark_ngrams(against) if against else None,
        ngram=against.ngram if against else 0,
    )


def keys_hash(rules: Sequence[Rule]) -> list[Any]:
    """The whole-data rules, for a fingerprint, with the contents of the files that they read."""
    found: list[Any] = []
    for rule in rules:
        if isinstance(rule, WHOLE_DATA):
            files = expand(rule.files) if isinstance(rule, Contamination) else []
            contents = [hashlib.sha256(read_bytes(file.location)).hexdigest() for file in files]
            found.append([rule.model_dump(mode="json"), contents])
    return found


def prompt_key(conversation: Conversation) -> int:
    """Hash of everything before the last answer; of the whole of a plain text."""
    turns = _turns(conversation)
    return _hash("\n".join(turns[:-1] or turns))


def signature(text: str, rule: NearDuplicates) -> bytes:
    """num_hashes little-endian uint32; the share of equal places of two estimates their Jaccard similarity."""
    sketch = RMinHash(num_perm=rule.num_hashes, seed=_SEED)
    sketch.update(shingles(text, rule.ngram))
    return np.array(sketch.digest(), dtype="<u4").tobytes()


def shingles(text: str, ngram: int) -> list[str]:
    """Word n-grams, without case; of text without spaces, character n-grams; of a shorter text, the text."""
    words = _words(text)
    if len(words) < ngram:
        return [" ".join(words)]
    return [" ".join(words[start : start + ngram]) for start in range(len(words) - ngram + 1)]


def _words(text: str) -> list[str]:
    text = text.casefold()
    words = text.split()
    if text.isascii():
        return words
    joined = "".join(words)
    return list(joined) if 2 * len(_UNSPACED.findall(joined)) > len(joined) else words


def _turns(conversation: Conversation) -> list[str]:
    """Each turn's role and text, without case and with single spaces."""
    found = []
    for message in conversation.messages:
        text = f"{message.content} {list(message.tool_calls)}" if message.tool_calls else message.content
        found.append(f"{message.role}: {' '.join(text.casefold().split())}")
    return found


def _text(conversation: Conversation) -> str:
    return "\n".join(message.content for message in conversation.messages)


def _hash(text: str) -> int:
    digest = hashlib.blake2b(text.encode(errors="replace"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _ngram_hashes(text: str, ngram: int) -> Iterator[int]:
    return (_hash(shingle) for shingle in shingles(text, ngram))


def _benchmark_ngrams(rule: Contamination) -> frozenset[int]:
    """Hashes of the n-grams of every text of every record of the benchmark files."""
    found: set[int] = set()
    for raw in read_all(expand(rule.files)):
        if isinstance(raw.value, dict):
            for text in _strings(raw.value):
                if text.strip():
                    found.update(_ngram_hashes(text, rule.ngram))
    return frozenset(found)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)
