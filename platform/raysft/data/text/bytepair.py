"""The ids of a byte-level BPE by tiktoken's engine: the ids of the tokenizer itself, at several times its rate.

Owns the proof that both give the same ids; where it fails for a tokenizer or a text, the tokenizer itself is used.

`tokenizers` joins the neighbours whose pair stands first in its list of merges, tiktoken those whose joined bytes
have the smallest id. They agree for a vocabulary where
  1. the merges stand in the order of their results' ids;
  2. every result, tokenized alone, is one token;
  3. ids that no merge makes are kept from tiktoken.
Each engine then takes, of all neighbours that are a token when joined, those with the smallest id. Take neighbours
c, d whose joined bytes are token t, when every smaller join is done. No join has crossed the edges of these bytes, so
inside them the joins were those of t alone; by 2 these end in a pair (a, b) that is in the list, so (c, d) = (a, b),
and both engines join it. So, too, no join makes a smaller one possible: its bytes would have been joined before.
Which pieces the joins are confined to is decided by a regular expression: the two libraries' agree on the patterns
below for every character of Unicode (tests/unit/data/text/test_bytepair.py).

Their `\\s+(?!\\S)|\\s+` leaves the last blank of a run to the word behind it. Looking ahead takes half of the time,
and matters only where a run that no other part of the pattern takes has two blanks or more: of one, both take that
one. A text without such runs is cut by the pattern with `\\s+` alone.
"""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tiktoken._tiktoken import CoreBPE  # the engine under tiktoken.Encoding, whose lists cost as much again
from tokenizers import AddedToken, models

from raysft.data.text.backend import Tokenizing

_GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_ONE_DIGIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_THREE_DIGITS = _ONE_DIGIT.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
PATTERNS = (_GPT2, _ONE_DIGIT, _THREE_DIGITS)
"""Cuts of a text into words: GPT-2's (tokenizers' ByteLevel), Qwen 2 and 3's and raysft's own, Llama 3's."""

_LOOKING_AHEAD = r"|\s+(?!\S)|\s+"
_ASCII_RUNS = ("  ", "\t", "\v", "\f")
_RUNS = re.compile(r"[^\S\r\n]{2}")
"""Blanks of which two follow each other, where line breaks are cut with all that is before them; in ASCII, each that
is not the usual one."""
_ASCII_RUNS_OR_BREAKS = (*_ASCII_RUNS, "\n\n", " \n", "\n ", "\r")
_RUNS_OR_BREAKS = re.compile(r"\s\s")
"""The same where they are not (GPT-2)."""

_LONGEST = 200_000
"""Characters of a text. tiktoken gives up on runs of a million blanks."""

_FEW = 16
"""Special tokens that are handed to every call; of more, only those that a text holds."""


class BytePairs:
    """tiktoken's engine for one tokenizer."""

    spells = True  # the bytes of a text's tokens are the text

    def __init__(self, ranks: dict[bytes, int], special: dict[str, int], pattern: str, *, normal_form: bool) -> None:
        self._core = CoreBPE(ranks, special, pattern)
        self._without_runs = CoreBPE(ranks, special, pattern.replace(_LOOKING_AHEAD, r"|\s+"))
        with_breaks = pattern == _GPT2
        self._ascii_runs = _ASCII_RUNS_OR_BREAKS if with_breaks else _ASCII_RUNS
        self._runs = _RUNS_OR_BREAKS if with_breaks else _RUNS
        self._special, self._normal_form = frozenset(special), normal_form
        longest_first = sorted(special, key=len, reverse=True)
        self._finder = re.compile("|".join(map(re.escape, longest_first))) if len(special) > _FEW else None

    def encode(self, text: str) -> bytes | None:
        """Ids of the whole text as native 32-bit integers; None: not proven for this text, or it has none.

        Raises UnicodeEncodeError for lone surrogates.
        """
        if len(text) > _LONGEST or (self._normal_form and not _is_nfc(text)):
            return None
        special = self._special if self._finder is None else set(self._finder.findall(text))
        core = self._core if self._may_have_runs(text) else self._without_runs
        try:
            return bytes(core.encode_to_tiktoken_buffer(text, special))
        except UnicodeEncodeError:
            raise
        except ValueError:  # the regular expression ran out of its stack
            return None

    def _may_have_runs(self, text: str) -> bool:
        """May the pattern have to look ahead?"""
        if not text.isascii():
            return self._runs.search(text) is not None
        return any(run in text for run in self._ascii_runs)


@lru_cache(maxsize=8)
def byte_pairs(tokenizer: Tokenizing) -> BytePairs | None:
    """The engine of a tokenizer for which the proof holds, else None."""
    backend = tokenizer.backend_tokenizer
    state = json.loads(backend.to_str())
    added: Mapping[int, AddedToken] = backend.get_added_tokens_decoder()
    pattern = _pattern(state["pre_tokenizer"])
    ranks = _ranks(state["model"], {token.content for token in added.values()})
    normalizer = state["normalizer"]
    if pattern is None or ranks is None or normalizer not in (None, {"type": "NFC"}) or not _are_apart(added):
        return None
    special = {token.content: index for index, token in added.items()}
    return BytePairs(ranks, special, pattern, normal_form=normalizer is not None)


def _pattern(pre_tokenizer: dict[str, Any] | None) -> str | None:
    """The regular expression that cuts a text into pieces, where it is one of PATTERNS."""
    steps = [pre_tokenizer] if pre_tokenizer else []
    if pre_tokenizer and pre_tokenizer["type"] == "Sequence":
        steps = pre_tokenizer["pretokenizers"]
    if not steps or steps[-1]["type"] != "ByteLevel" or steps[-1]["add_prefix_space"]:
        return None
    if len(steps) == 1:
        return _GPT2 if steps[0]["use_regex"] else None
    split, byte_level = steps[0], steps[-1]
    if len(steps) > 2 or split["type"] != "Split" or byte_level["use_regex"]:
        return None
    pattern: str | None = split["pattern"].get("Regex")
    plain = split["behavior"] == "Isolated" and not split["invert"]
    return pattern if plain and pattern in PATTERNS else None


def _ranks(model: dict[str, Any], added: set[str]) -> dict[bytes, int] | None:
    """{bytes: id} of every byte and every merge's result, where conditions 1 and 2 hold."""
    if model["type"] != "BPE" or model["dropout"] or model["byte_fallback"]:
        return None
    if model["continuing_subword_prefix"] or model["end_of_word_suffix"]:
        return None
    vocabulary: dict[str, int] = model["vocab"]
    byte_of = byte_of_character()
    if not vocabulary.keys() >= byte_of.keys():
        return None
    cuts = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    pairs = [(left, right) for left, right in cuts]
    in_order = [vocabulary[left + right] for left, right in pairs]
    results = {left + right for left, right in pairs}
    if in_order != sorted(in_order) or results & added:
        return None
    if model["ignore_merges"] and not vocabulary.keys() <= results | byte_of.keys() | added:
        return None  # such a word would be one token for `tokenizers`, which no merge makes
    alone = models.BPE(vocab=vocabulary, merges=pairs)
    if any(len(alone.tokenize(result)) != 1 for result in results):
        return None
    tokens = {token: vocabulary[token] for token in (*byte_of, *results)}
    return {bytes(byte_of[character] for character in token): index for token, index in tokens.items()}


def _are_apart(added: Mapping[int, AddedToken]) -> bool:
    """Can no two added tokens overlap in a text, and does none take the blanks around it? Then it does not matter in
    which order they are looked for."""
    texts = [token.content for token in added.values()]
    heads = {text[:end] for text in texts for end in range(1, len(text) + 1)}
    greedy = any(token.lstrip or token.rstrip or token.single_word or not token.content for token in added.values())
    overlap = any(text[start:] in heads for text in texts for start in range(1, len(text)))
    return not (greedy or overlap or any(one in other for one, other in permutations(texts, 2)))


def _is_nfc(text: str) -> bool:
    """Is it surely in normal form C? Characters that this Python does not know are in doubt."""
    if text.isascii():
        return True
    return unicodedata.is_normalized("NFC", text) and _unassigned().search(text) is None


@lru_cache(maxsize=1)
def _unassigned() -> re.Pattern[str]:
    category = unicodedata.category
    codes = np.fromiter((category(chr(code)) == "Cn" for code in range(sys.maxunicode + 1)), np.bool_)
    edges: NDArray[np.int64] = np.flatnonzero(np.diff(np.concatenate(([False], codes, [False]))))
    ranges = zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
    return re.compile("[" + "".join(f"{re.escape(chr(a))}-{re.escape(chr(b - 1))}" for a, b in ranges) + "]")


def byte_of_character() -> dict[str, int]:
    """GPT-2's visible character for every byte, reversed: printable Latin-1 stands for itself, the rest is
    shifted to 256 and up (Radford et al. 2019, the byte-level BPE of GPT-2)."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in set(visible)]
    return {chr(b): b for b in visible} | {chr(256 + i): b for i, b in enumerate(hidden)}
