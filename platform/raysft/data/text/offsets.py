"""Token ids together with where each token begins and ends in its text. Owns exactness of these positions.

Where tokens are pieces of the text (byte-level tokenizers, and those that write blanks as marks), the positions are
computed from the ids by a table of token byte lengths: the offsets that tokenizers report may leave out leading white
space (`trim_offsets`), which would move a target border, and cost more than the tokens. Where the tokens' bytes are
not the text's bytes (a normalizer changed it), and for other tokenizers, their own character offsets are used. All of
it is done for a batch of texts at once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models

from raysft.data.text.backend import Tokenizing
from raysft.data.text.bytepair import byte_of_character, byte_pairs
from raysft.data.text.marked_words import MARK, marked_words

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


def tokenize(tokenizer: Tokenizing, texts: Sequence[str]) -> Tokens:
    """Each text whole, without adding special tokens. Raises UnicodeEncodeError for lone surrogates."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    table = _byte_table(tokenizer)
    sizes = np.fromiter(map(_num_bytes, texts), np.int64, len(texts))
    if table is None:
        encodings = backend.encode_batch(list(texts), add_special_tokens=False)
        ids, bounds = _joined([encoding.ids for encoding in encodings])
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
    pairs = chain.from_iterable(encoding.offsets for encoding in encodings)
    reported = np.fromiter(chain.from_iterable(pairs), np.int64)
    others = np.repeat(~in_bytes, np.diff(bounds))
    from_base = np.repeat(bases, np.diff(bounds))[others]
    tokens.starts[others], tokens.ends[others] = reported[::2] + from_base, reported[1::2] + from_base
    return tokens


def _ids(
    tokenizer: Tokenizing, texts: Sequence[str]
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.bool_]]:
    """Ids one text after the other, their bounds, and of which texts the tokens' bytes are proven to be the text."""
    fast = byte_pairs(tokenizer) or marked_words(tokenizer)
    found = [fast.encode(text) for text in texts] if fast else [None] * len(texts)
    done = np.fromiter((ids is not None for ids in found), np.bool_, len(texts))
    proven = done if fast and fast.spells else np.zeros_like(done)
    whole = [ids for ids in found if ids is not None]
    if len(whole) == len(texts):
        counts = np.fromiter(map(len, whole), np.int64, len(texts)) // 4
        return np.frombuffer(b"".join(whole), np.int32), _running_total(counts), proven
    rest = [text for text, ids in zip(texts, found, strict=True) if ids is None]
    encodings = tokenizer.backend_tokenizer.encode_batch_fast(rest, add_special_tokens=False)
    if not done.any():
        return *_joined([encoding.ids for encoding in encodings]), proven
    others = iter(encodings)
    return *_joined([next(others).ids if own is None else memoryview(own).cast("i") for own in found]), proven


def _joined(lists: Sequence[Sequence[int]]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The ids one text after the other, and where each begins."""
    bounds = _running_total(np.fromiter(map(len, lists), np.int64, len(lists)))
    return np.fromiter(chain.from_iterable(lists), np.int32, bounds[-1]), bounds


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
            found = byte_places(text, found)
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


def byte_places(text: str, places: Sequence[int]) -> list[int]:
    """Places in characters, in order, as places in UTF-8 bytes."""
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
    """Is each text what its tokens' bytes, joined, are? By length where that is proof, else compared."""
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
def _byte_table(tokenizer: Tokenizing) -> _ByteTable | None:
    """None for a tokenizer whose tokens are not pieces of the text."""
    backend = tokenizer.backend_tokenizer
    vocabulary: dict[str, int] = backend.get_vocab(with_added_tokens=True)
    added = backend.get_added_tokens_decoder()
    own = {token: index for token, index in vocabulary.items() if index not in added}
    if isinstance(backend.decoder, decoders.ByteLevel):
        byte_of = byte_of_character()
        if not set(chain.from_iterable(own)) <= byte_of.keys():
            return None
        known = {index: bytes(byte_of[character] for character in token) for token, index in own.items()}
        proof = _proof(backend) if vocabulary.keys() >= byte_of.keys() else "none"
    elif _writes_blanks_as_marks(backend):
        known = {index: _marked_piece(token) for token, index in own.items()}
        proof = "all" if _keeps_letters(backend) else "none"
    else:
        return None
    known |= {index: token.content.encode() for index, token in added.items()}
    pieces = [known.get(index, b"") for index in range(max(known) + 1)]
    lengths = np.fromiter(map(len, pieces), np.int64, len(pieces))
    if proof == "all" and (unknown := _unknown(backend)) is not None:
        lengths[unknown] = -(1 << 40)  # stands for any letters: no text with it has the sum of its tokens' lengths
    return _ByteTable(pieces, lengths, proof)


def _writes_blanks_as_marks(backend: Tokenizer) -> bool:
    """Are the tokens pieces of the text with marks for blanks (Llama 2, Gemma, T5)? Not where a blank is put before
    every stretch of text: then hardly any text is its tokens."""
    steps = [*_steps(backend.normalizer, "normalizers"), *_steps(backend.pre_tokenizer, "pretokenizers")]
    marks = [step for step in steps if step["type"] == "Metaspace" or step.get("content") == MARK]
    prepends = any(step["type"] == "Prepend" or step.get("prepend_scheme") == "always" for step in steps)
    return bool(marks) and not prepends


def _keeps_letters(backend: Tokenizer) -> bool:
    """Does nothing but a blank before the whole text, or an unknown token, change the length of a text's tokens?"""
    changes = _steps(backend.normalizer, "normalizers")
    only_marks = all(step["type"] == "Replace" and step["pattern"] == {"String": " "} for step in changes)
    cuts = _steps(backend.pre_tokenizer, "pretokenizers")
    removed = any(step["type"] not in ("Metaspace", "Split") or step.get("behavior") == "Removed" for step in cuts)
    return only_marks and not removed and isinstance(backend.model, models.BPE | models.Unigram)


@lru_cache(maxsize=8)
def unknown_id(tokenizer: Tokenizing) -> int | None:
    """The id that stands for letters which the vocabulary lacks."""
    return _unknown(tokenizer.backend_tokenizer)


def _unknown(backend: Tokenizer) -> int | None:
    model = backend.model
    if isinstance(model, models.Unigram):
        unknown: int | None = json.loads(backend.to_str())["model"]["unk_id"]
        return unknown
    return backend.token_to_id(model.unk_token) if model.unk_token else None


def _marked_piece(token: str) -> bytes:
    """The text of a token; `<0x0A>` is the byte 10 of a character that the vocabulary lacks."""
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:5], 16)])
    return token.replace(MARK, " ").encode()


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


def _steps(component: Any, key: str) -> list[dict[str, object]]:
    """A pre-tokenizer's or normalizer's own description; that of its parts where it is a sequence."""
    if component is None:
        return []
    state = json.loads(component.__getstate__())
    return list(state[key]) if state["type"] == "Sequence" else [state]
