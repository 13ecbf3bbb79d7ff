"""Tokens cut where an answer begins: tokens(prompt) + tokens(answer), as when the model generates. Pure.

A text is tokenized whole. Where one of its tokens reaches from a prompt into the answer, or where the prompt alone
would have other tokens, the text on both sides of that place is tokenized apart; the answer without the blank that
SentencePiece puts before a text. Only the stretch between the neighbouring added tokens is touched: they are cut out
of a text before anything else is done, so nothing reaches over them.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from raysft.data.text.backend import Backend, Tokenizing
from raysft.data.text.offsets import Span, Tokens, byte_places, tokenize, unknown_id


@dataclass(frozen=True)
class _Tokenized:
    """Tokens of one text with the characters that they stand for."""

    ids: list[int]
    places: list[Span]


def cut(
    tokenizer: Tokenizing, texts: Sequence[str], tokens: Tokens, borders: Sequence[Sequence[int]]
) -> tuple[Tokens, list[list[int]]]:
    """The tokens with none across a border, and which borders of each text were cut. Borders count characters."""
    cuts: list[list[int]] = [[] for _ in texts]
    doubtful = _doubtful(tokenizer, texts, tokens, borders)
    if not doubtful:
        return tokens, cuts
    changed: dict[int, _Tokenized] = {}
    for index, places in doubtful.items():
        text, own = texts[index], _own(texts[index], tokens, index)
        found = _cut_text(tokenizer, text, own, places)
        if found.ids != own.ids:
            changed[index] = found
            cuts[index] = [place for place in places if _is_cut(own, found, place)]
    return (_with(tokens, texts, changed) if changed else tokens), cuts


def _doubtful(
    tokenizer: Tokenizing, texts: Sequence[str], tokens: Tokens, borders: Sequence[Sequence[int]]
) -> dict[int, list[int]]:
    """Borders where the whole text's tokens may not be those of its two sides, by text.

    They surely are where a token begins at the border and an added token ends there, or a line break that other than
    white space follows, or other than white space that a blank follows: pre-tokenizers cut there whatever follows.
    """
    places: list[int] = []
    own: list[tuple[int, int]] = []
    bases, in_bytes = tokens.bases.tolist(), tokens.in_bytes.tolist()
    for index, text_borders in enumerate(borders):
        if text_borders:
            text = texts[index]
            in_units = text_borders if not in_bytes[index] or text.isascii() else byte_places(text, text_borders)
            places += [bases[index] + place for place in in_units]
            own += [(index, border) for border in text_borders]
    if not own:
        return {}
    edges = np.asarray(places, np.int64)
    first = np.searchsorted(tokens.starts, edges)
    clean = tokens.starts[np.minimum(first, len(tokens.starts) - 1)] == edges
    clean &= (first == 0) | (tokens.ends[first - 1] <= edges)
    doubtful: dict[int, list[int]] = {}
    for number, (is_clean, (index, border)) in enumerate(zip(clean.tolist(), own, strict=True)):
        text = texts[index]
        if is_clean and _CUTS[text[border - 1 : border + 1]]:
            continue
        before = int(first[number]) - 1
        if is_clean and before >= 0 and int(tokens.ids[before]) in added_ids(tokenizer):
            continue
        if 0 < border < len(text):
            doubtful.setdefault(index, []).append(border)
    return doubtful


class _Pairs(dict[str, bool]):
    """Two neighbouring characters: does every pre-tokenizer cut between them?"""

    def __missing__(self, pair: str) -> bool:
        before, after = pair[:1], pair[1:]
        cuts = (before in "\r\n" and not after.isspace()) or (after == " " and not before.isspace())
        self[pair] = found = len(pair) == 2 and cuts
        return found


_CUTS = _Pairs()


def _cut_text(tokenizer: Tokenizing, text: str, own: _Tokenized, borders: Sequence[int]) -> _Tokenized:
    """The tokens with every stretch that holds a border tokenized in pieces, from border to border.

    A stretch lies between the neighbouring added tokens; both are tokenized with it.
    """
    added = added_ids(tokenizer)
    fixed = [number for number, index in enumerate(own.ids) if index in added]
    starts = [own.places[number][0] for number in fixed]
    stretches: dict[tuple[int, int], list[int]] = {}
    for border in borders:
        after = bisect_left(starts, border)
        first = fixed[after - 1] if after else -1
        last = fixed[after] if after < len(fixed) else len(own.ids)
        stretches.setdefault((first, last), []).append(border)
    ids, places = own.ids, own.places
    for (first, last), inside in sorted(stretches.items(), reverse=True):
        start = places[first][0] if first >= 0 else 0
        stop = places[last][1] if last < len(ids) else len(text)
        pieces = [
            _tokens_of(without_prefix(tokenizer) if number else tokenizer, text, begin, end)
            for number, (begin, end) in enumerate(pairwise([start, *inside, stop]))
        ]
        head, tail = max(first, 0), last + 1
        ids = ids[:head] + [index for piece in pieces for index in piece.ids] + ids[tail:]
        places = places[:head] + [place for piece in pieces for place in piece.places] + places[tail:]
    return _Tokenized(ids, places)


def _is_cut(whole: _Tokenized, found: _Tokenized, border: int) -> bool:
    """Was a token cut, or did the tokens beside the border change?"""
    if any(start < border < end for start, end in whole.places):
        return True
    around = [
        [(i, p) for i, p in zip(one.ids, one.places, strict=True) if p[1] == border or p[0] == border]
        for one in (whole, found)
    ]
    return around[0] != around[1]


def _tokens_of(tokenizer: Tokenizing, text: str, start: int, stop: int) -> _Tokenized:
    """The tokens of a part of the text, placed in the whole."""
    part = text[start:stop]
    own = _own(part, tokenize(tokenizer, [part]), 0)
    return _Tokenized(own.ids, [(start + begin, start + end) for begin, end in own.places])


def _own(text: str, tokens: Tokens, index: int) -> _Tokenized:
    """Text `index` of the tokens alone, in characters. Of a byte inside a character: that character's place."""
    own = slice(int(tokens.bounds[index]), int(tokens.bounds[index + 1]))
    base = int(tokens.bases[index])
    starts, ends = (tokens.starts[own] - base).tolist(), (tokens.ends[own] - base).tolist()
    if tokens.in_bytes[index] and not text.isascii():
        character_of = [at for at, letter in enumerate(text) for _ in letter.encode()] + [len(text)]
        starts = [character_of[place] for place in starts]
        ends = [character_of[place - 1] + 1 if place else 0 for place in ends]
    return _Tokenized(tokens.ids[own].tolist(), list(zip(starts, ends, strict=True)))


def _with(tokens: Tokens, texts: Sequence[str], changed: dict[int, _Tokenized]) -> Tokens:
    """The tokens with those of some texts replaced. Replaced texts count characters."""
    sizes = [len(text) if index in changed else len(text.encode()) for index, text in enumerate(texts)]
    bases = np.concatenate(([0], np.cumsum(np.asarray(sizes, np.int64) + 1)))[:-1]
    ids: list[NDArray[np.int32]] = []
    starts: list[NDArray[np.int64]] = []
    ends: list[NDArray[np.int64]] = []
    for index, (begin, end) in enumerate(pairwise(tokens.bounds.tolist())):
        if index in changed:
            new = changed[index]
            places = np.asarray(new.places, np.int64).reshape(-1, 2) + bases[index]
            ids.append(np.asarray(new.ids, np.int32))
            starts.append(places[:, 0])
            ends.append(places[:, 1])
        else:
            shift = bases[index] - tokens.bases[index]
            ids.append(tokens.ids[begin:end])
            starts.append(tokens.starts[begin:end] + shift)
            ends.append(tokens.ends[begin:end] + shift)
    bounds = np.cumsum([0, *map(len, ids)], dtype=np.int64)
    in_bytes = tokens.in_bytes.copy()
    in_bytes[list(changed)] = False
    return replace(
        tokens,
        ids=np.concatenate(ids),
        starts=np.concatenate(starts),
        ends=np.concatenate(ends),
        bounds=bounds,
        bases=bases,
        in_bytes=in_bytes,
    )


@lru_cache(maxsize=8)
def added_ids(tokenizer: Tokenizing) -> frozenset[int]:
    """Ids of the added tokens, each of which is cut out of a text before anything else is done; without the one that
    stands for unknown letters."""
    return frozenset(tokenizer.backend_tokenizer.get_added_tokens_decoder()) - {unknown_id(tokenizer)}


@lru_cache(maxsize=8)
def without_prefix(tokenizer: Tokenizing) -> Tokenizing:
    """The tokenizer without the blank that it puts before a text; itself where it puts none."""
    state: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    bare = json.loads(json.dumps(state))
    for key, inner in (("pre_tokenizer", "pretokenizers"), ("normalizer", "normalizers")):
        bare[key] = _bare(bare[key], inner)
    if bare == state:
        return tokenizer
    return Backend(Tokenizer.from_str(json.dumps(bare)), tokenizer.name_or_path)


def _bare(component: dict[str, Any] | None, inner: str) -> dict[str, Any] | None:
    """A pre-tokenizer or normalizer that adds nothing before a text."""
    if component is None or component["type"] == "Prepend":
        return None
    if component["type"] == "Sequence":
        steps = [step for one in component[inner] if (step := _bare(one, inner)) is not None]
        return {**component, inner: steps}
    if component["type"] == "Metaspace":
        return {**component, "prepend_scheme": "never"}
    return {**component, "add_prefix_space": False} if component.get("add_prefix_space") else component
