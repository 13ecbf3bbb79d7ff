"""The ids of a tokenizer that writes blanks as marks (Llama 2, Mistral, Gemma; SentencePiece), a word at a time.

Owns the proof that a text's ids are those of its words, one after the other; where it fails for a tokenizer or a
text, the tokenizer itself is used. Words come again and again: what the model makes of one is computed once.

Where the pre-tokenizer cuts before every mark, the model sees nothing but words. Where it does not, the model is BPE,
and a text is cut where a mark follows another letter. If no merge has a mark after another letter, none crosses such
a cut; merges on its two sides do not touch, so the first in the whole text is the first on its side. The marks and
the added tokens, which are taken out first, leftmost and longest, are found as `tokenizers` does it
(tests/unit/data/text/test_marked_words.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from tokenizers import models

from raysft.data.text.backend import Tokenizing

MARK = "\u2581"
"""SentencePiece's blank (Kudo & Richardson 2018, arXiv:1808.06226)."""

_WORDS_KEPT = 100_000
"""About 20 MB."""
_LONGEST = 64
"""Characters of a word. Text without blanks has longer ones, which hardly ever come again."""

Prefix = Literal["never", "first", "where missing", "always"]
"""Which stretches of text between added tokens get a mark before them; "first": where missing, the text's first."""


class MarkedWords:
    """The words of one tokenizer."""

    spells = False  # an unknown token, or a mark before the text, is not the text

    def __init__(self, model: models.Model, added: dict[str, int], *, prefix: Prefix, cut: re.Pattern[str]) -> None:
        self._model, self._prefix, self._cut = model, prefix, cut
        self._added = {text: _as_bytes([index]) for text, index in added.items()}
        self._finder = re.compile(f"({_any_of(added)})") if added else None
        self._known: dict[str, bytes] = {}

    def encode(self, text: str) -> bytes | None:
        """Ids of the whole text as native 32-bit integers; None: it has a long word."""
        parts = self._finder.split(text) if self._finder else [text]
        found: list[bytes] = []
        for index, part in enumerate(parts):
            if index % 2:
                found.append(self._added[part])
            elif part:
                words = self._cut.findall(self._marked(part, first=index == 0))
                try:
                    found.append(b"".join(map(self._known.__getitem__, words)))
                except KeyError:
                    if not self._learn(words):
                        return None
                    found.append(b"".join(map(self._known.__getitem__, words)))
        return b"".join(found)

    def _marked(self, part: str, *, first: bool) -> str:
        marked = part.replace(" ", MARK)
        if self._prefix == "never" or (self._prefix == "first" and not first):
            return marked
        return marked if self._prefix != "always" and marked[0] == MARK else MARK + marked

    def _learn(self, words: list[str]) -> bool:
        """Know all these words; False: one is long."""
        if len(self._known) > _WORDS_KEPT:
            self._known.clear()
        for word in words:
            if word not in self._known:
                if len(word) > _LONGEST:
                    return False
                self._known[word] = _as_bytes([token.id for token in self._model.tokenize(word)])
        return True


@lru_cache(maxsize=8)
def marked_words(tokenizer: Tokenizing) -> MarkedWords | None:
    """The words of a tokenizer for which the proof holds, else None."""
    backend = tokenizer.backend_tokenizer
    state = json.loads(backend.to_str())
    found = backend.get_added_tokens_decoder()
    added = {token.content: index for index, token in found.items()}
    form = _form(state["normalizer"], state["pre_tokenizer"])
    greedy = any(token.lstrip or token.rstrip or token.single_word or not token.content for token in found.values())
    in_normalized = {token.normalized for token in found.values()}
    if form is None or greedy or len(in_normalized) > 1 or (True in in_normalized and state["normalizer"]):
        return None
    prefix, into_words = form
    if state["model"].get("dropout") or not (into_words or _stays_in_words(state["model"])):
        return None
    cut = rf"{MARK}[^{MARK}]*|[^{MARK}]+" if into_words else rf"{MARK}*[^{MARK}]+|{MARK}+"
    return MarkedWords(backend.model, added, prefix=prefix, cut=re.compile(cut))


def _form(normalizer: dict[str, Any] | None, pre_tokenizer: dict[str, Any] | None) -> tuple[Prefix, bool] | None:
    """(where marks are put before, does the pre-tokenizer cut before every mark); None: other things are done."""
    if normalizer is None and pre_tokenizer and pre_tokenizer["type"] == "Metaspace":
        schemes: dict[str, Prefix] = {"never": "never", "first": "first", "always": "where missing"}
        scheme = schemes.get(pre_tokenizer["prepend_scheme"])
        return (scheme, pre_tokenizer["split"]) if scheme and pre_tokenizer["replacement"] == MARK else None
    cuts_at_blanks = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    if pre_tokenizer not in (None, cuts_at_blanks) or normalizer is None:  # no blank is left to cut at
        return None
    steps = normalizer["normalizers"] if normalizer["type"] == "Sequence" else [normalizer]
    marks = {"type": "Replace", "pattern": {"String": " "}, "content": MARK}
    before = {"type": "Prepend", "prepend": MARK}
    if steps == [marks]:
        return "never", False
    return ("always", False) if steps in ([before, marks], [marks, before]) else None


def _stays_in_words(model: dict[str, Any]) -> bool:
    """Is it a BPE in which nothing joins a mark to another letter before it?"""
    if model["type"] != "BPE" or model["ignore_merges"] or MARK not in model["vocab"]:
        return False
    if model["continuing_subword_prefix"] or model["end_of_word_suffix"]:
        return False
    merges = ("".join(merge.split(" ") if isinstance(merge, str) else merge) for merge in model["merges"])
    return not any(MARK in merge.lstrip(MARK) for merge in merges)


def _any_of(texts: Iterable[str]) -> str:
    """A regular expression that finds the longest of the texts which begins at a place, in one walk along it."""
    tails: dict[str, list[str]] = {}
    for text in texts:
        if text:
            tails.setdefault(text[0], []).append(text[1:])
    branches = [re.escape(head) + (_any_of(rest) if any(rest) else "") for head, rest in sorted(tails.items())]
    return f"(?:{'|'.join(branches)}){'?' if '' in texts else ''}"


def _as_bytes(ids: list[int]) -> bytes:
    return np.asarray(ids, np.int32).tobytes()
