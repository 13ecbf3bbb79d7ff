"""Token ids together with where each token begins and ends in its text. Owns exactness of these positions.

For byte-level tokenizers the positions are computed from the ids by a table of token byte lengths: the offsets that
such tokenizers report may leave out leading white space (`trim_offsets`), which would move a target border, and cost
more than the tokens. Where the tokens' bytes are not the text's bytes (a normalizer changed it), and for other
tokenizers, the tokenizer's own character offsets are used. All of it is done for a batch of texts at once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models

from raysft.data.bytepair import byte_of_character, byte_pairs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Span = tuple[int, int]


@dataclass(frozen=True)
class Tokens:
    """The tokens of some texts, one text after the other: text i has the tokens bounds[i] to bounds[i + 1].

    `starts` and `ends` are places on one line on which text i begins at bases[i]; they count UTF-8 bytes where
    in_bytes[i], else characters.
    """

    ids: NDArray[np.int32]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    bounds: NDArray[np.int64]
    bases: NDArray[np.int64]
    in_bytes: NDArray[np.bool_]


@dataclass(frozen=True)
class _ByteTable:
    """The bytes of every token id. `proof`: of which texts the tokens' total length proves their bytes."""

    pieces: list[bytes]
    lengths: NDArray[np.int64]
    proof: Literal["all", "ascii", "none"]


def tokenize(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> Tokens:
    """Each text whole, without adding special tokens. Raises UnicodeEncodeError for lone surrogates."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    table = _byte_table(tokenizer)
    sizes = np.fromiter(map(_num_bytes, texts), np.int64, len(texts))
    if table is None:
        encodings = backend.encode_batch(list(texts), add_special_tokens=False)
        ids, bounds = _joined([np.asarray(encoding.ids, np.int32) for encoding in encodings])
        places, in_bytes = np.zeros(len(ids) + 1, np.int64), np.zeros(len(texts), np.bool_)
    else:
        ids, bounds, proven = _ids(tokenizer, texts)
        places = _running_total(table.lengths[ids])
        same_length = np.diff(places[bounds]) == sizes
        in_bytes = proven | _tokens_are_the_text(texts, ids, bounds, table, same_length & ~proven)
        if in_bytes.all() and table.lengths[ids].all():  # no gaps, and no token without text between two texts
            return Tokens(ids, places[:-1], places[1:], bounds, places[bounds[:-1]], in_bytes)
        rest = [texts[index] for index in np.flatnonzero(~in_bytes).tolist()]
        encodings = backend.encode_batch(rest, add_special_tokens=False) if rest else []
    bases = _running_total(sizes + 1)[:-1]  # a place between two texts, so that no border belongs to both
    shift = np.repeat(bases - places[bounds[:-1]], np.diff(bounds))
    tokens = Tokens(ids, places[:-1] + shift, places[1:] + shift, bounds, bases, in_bytes)
    for index, encoding in zip(np.flatnonzero(~in_bytes).tolist(), encodings, strict=True):
        pairs = np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2) + bases[index]
        own = slice(bounds[index], bounds[index + 1])
        tokens.starts[own], tokens.ends[own] = pairs[:, 0], pairs[:, 1]
    return tokens


def _ids(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.bool_]]:
    """Ids one text after the other, their bounds, and of which texts the tokens' bytes are proven to be the text."""
    fast = byte_pairs(tokenizer)
    found = [fast.encode(text) for text in texts] if fast else [None] * len(texts)
    proven = np.fromiter((ids is not None for ids in found), np.bool_, len(texts))
    if proven.all():
        counts = np.fromiter(map(len, found), np.int64, len(texts)) // 4  # type: ignore[arg-type]
        return np.frombuffer(b"".join(found), np.int32), _running_total(counts), proven  # type: ignore[arg-type]
    rest = [text for text, ids in zip(texts, found, strict=True) if ids is None]
    others = iter(tokenizer.backend_tokenizer.encode_batch_fast(rest, add_special_tokens=False))
    arrays = [
        np.asarray(next(others).ids, np.int32) if ids is None else np.frombuffer(ids, np.int32) for ids in found
    ]
    return *_joined(arrays), proven


def _joined(arrays: Sequence[NDArray[np.int32]]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The arrays one after the other, and where each begins."""
    bounds = _running_total(np.fromiter(map(len, arrays), np.int64, len(arrays)))
    return (np.concatenate(arrays) if arrays else np.zeros(0, np.int32)), bounds


def locate(
    texts: Sequence[str], tokens: Tokens, spans: Sequence[Sequence[Span]]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(target, straddles) per token, for each text's disjoint character spans in order.

    A token is a target iff its first character lies in a span; it straddles iff a border lies inside it.
    """
    borders: list[int] = []
    bases, in_bytes = tokens.bases.tolist(), tokens.in_bytes.tolist()
    for text, own, base, as_bytes in zip(texts, spans, bases, in_bytes, strict=True):
        found = _borders(own)
        if as_bytes and not text.isascii():
            found = _byte_places(text, found)
        borders += [base + border for border in found]
    edges = np.asarray(borders, dtype=np.int64)
    if np.array_equal(tokens.starts[1:], tokens.ends[:-1]) and np.all(tokens.ends > tokens.starts):
        return _locate_in_line(tokens, edges)
    length = int(tokens.ends.max(initial=0)) + 1
    edges = np.minimum(edges, length)
    # passed[p]: borders at or before place p. A table of places is cheaper than a search for every token.
    passed = np.repeat(np.arange(len(edges) + 1), np.diff(edges, prepend=0, append=length))
    before = passed[tokens.starts]
    last = np.maximum(tokens.ends - 1, tokens.starts)  # of a token without text: its only place
    return before % 2 == 1, passed[last] > before


def _locate_in_line(tokens: Tokens, edges: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """locate() where the tokens follow each other without a gap: a search for each border, not for each token."""
    first = np.searchsorted(tokens.starts, edges)  # the first token at or after the border
    turns = np.zeros(len(tokens.ids) + 1, np.uint8)
    np.bitwise_xor.at(turns, first, 1)
    straddles = np.zeros(len(tokens.ids), np.bool_)
    before = first[first > 0] - 1
    straddles[before[tokens.ends[before] > edges[first > 0]]] = True
    return np.bitwise_xor.accumulate(turns)[:-1].view(np.bool_), straddles


def _borders(spans: Sequence[Span]) -> list[int]:
    """Start, end, start, end...; spans that touch are one, empty ones none."""
    borders: list[int] = []
    for start, end in spans:
        if borders and start == borders[-1]:
            borders[-1] = end
        elif end > start:
            borders += (start, end)
    return borders


def _byte_places(text: str, places: Sequence[int]) -> list[int]:
    found: list[int] = []
    done = total = 0
    for place in places:
        total += len(text[done:place].encode())
        done = place
        found.append(total)
    return found


def _num_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _running_total(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """0 and the sum up to each value."""
    total = np.zeros(len(values) + 1, np.int64)
    np.cumsum(values, out=total[1:])
    return total


def _tokens_are_the_text(
    texts: Sequence[str],
    ids: NDArray[np.int32],
    bounds: NDArray[np.int64],
    table: _ByteTable,
    same_length: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Of which texts the tokens' bytes, joined, are the text: by their length where that is proof, else compared."""
    if table.proof == "all":
        return same_length
    found = same_length.copy()
    for index in np.flatnonzero(same_length).tolist():
        text = texts[index]
        if table.proof == "none" or not text.isascii():
            own = ids[bounds[index] : bounds[index + 1]].tolist()
            found[index] = b"".join(map(table.pieces.__getitem__, own)) == text.encode()
    return found


@lru_cache(maxsize=8)
def _byte_table(tokenizer: PreTrainedTokenizerFast) -> _ByteTable | None:
    """None for a tokenizer that is not byte-level."""
    backend = tokenizer.backend_tokenizer
    if not isinstance(backend.decoder, decoders.ByteLevel):
        return None
    byte_of = byte_of_character()
    vocabulary: dict[str, int] = backend.get_vocab(with_added_tokens=True)
    pieces = [b""] * (max(vocabulary.values()) + 1)
    added = backend.get_added_tokens_decoder()
    for token, index in vocabulary.items():
        if index not in added:
            if not all(character in byte_of for character in token):
                return None
            pieces[index] = bytes(byte_of[character] for character in token)
    for index, special in added.items():
        pieces[index] = special.content.encode()
    proof = _proof(backend) if vocabulary.keys() >= byte_of.keys() else "none"
    return _ByteTable(pieces, np.fromiter(map(len, pieces), np.int64, len(pieces)), proof)


def _proof(backend: Tokenizer) -> Literal["all", "ascii", "none"]:
    """For a vocabulary that has every byte: when equal length means equal bytes.

    BPE joins neighbouring characters and ByteLevel writes a byte as a character, so with every byte in the vocabulary
    the tokens are the text's bytes in order, with nothing added: an unknown token cannot occur, and prefix spaces
    and affixes are excluded here. Bytes can only be lost: to a pre-tokenizer that removes what it splits at, or to an
    added token that strips the space around it. So the sum of lengths is the text's length iff nothing was lost.
    A normalizer may change letters and keep the length; Unicode normal forms leave ASCII as it is.
    """
    model = backend.model
    if not isinstance(model, models.BPE) or model.continuing_subword_prefix or model.end_of_word_suffix:
        return "none"
    steps = _steps(backend.pre_tokenizer, "pretokenizers")
    if any(step.get("add_prefix_space") for step in steps) or not any(s["type"] == "ByteLevel" for s in steps):
        return "none"
    if not all(step["type"] in ("ByteLevel", "Split", "Digits", "Punctuation", "WhitespaceSplit") for step in steps):
        return "none"
    if backend.normalizer is None:
        return "all"
    forms = {step["type"] for step in _steps(backend.normalizer, "normalizers")}
    return "ascii" if forms <= {"NFC", "NFD", "NFKC", "NFKD"} else "none"


def _steps(component: object, key: str) -> list[dict[str, object]]:
    """A pre-tokenizer's or normalizer's own description; that of its parts where it is a sequence."""
    if component is None:
        return []
    state = json.loads(component.__getstate__())  # type: ignore[arg-type]
    return list(state[key]) if state["type"] == "Sequence" else [state]
