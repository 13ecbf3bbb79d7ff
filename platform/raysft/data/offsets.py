"""Token ids together with where each token begins and ends in the text. Owns exactness of these positions.

For byte-level tokenizers the positions are computed from the ids by a table of token bytes: the offsets that
such tokenizers report may leave out leading white space (`trim_offsets`), which would move a target border.
Where the tokens' bytes are not the text's bytes (a normalizer changed it), and for other tokenizers, the
tokenizer's own character offsets are used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Span = tuple[int, int]


@dataclass(frozen=True)
class Tokens:
    """One text's tokens. `starts`, `ends` count UTF-8 bytes when `in_bytes`, else characters."""

    ids: NDArray[np.int32]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    in_bytes: bool


def tokenize(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[Tokens]:
    """Each text whole, without adding special tokens. Raises UnicodeEncodeError for lone surrogates."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    table = _token_bytes(tokenizer)
    if table is None:
        return [
            _from_offsets(encoding.ids, encoding.offsets)
            for encoding in backend.encode_batch(list(texts), add_special_tokens=False)
        ]
    fast = backend.encode_batch_fast(list(texts), add_special_tokens=False)
    return [_from_bytes(encoding.ids, text, table, backend) for encoding, text in zip(fast, texts, strict=True)]


def locate(text: str, tokens: Tokens, spans: Sequence[Span]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(target, straddles) per token, for disjoint character spans in order.

    A token is a target iff its first character lies in a span; it straddles iff a border lies inside it.
    """
    borders: list[int] = []
    for start, end in spans:
        if borders and start == borders[-1]:
            borders[-1] = end
        elif end > start:
            borders += (start, end)
    if tokens.in_bytes and not text.isascii():
        borders = [len(text[:border].encode()) for border in borders]
    edges = np.asarray(borders, dtype=np.int64)
    before = np.searchsorted(edges, tokens.starts, side="right")
    return before % 2 == 1, np.searchsorted(edges, tokens.ends, side="left") > before


def _from_offsets(ids: list[int], offsets: list[Span]) -> Tokens:
    pairs = np.asarray(offsets, dtype=np.int64).reshape(-1, 2)
    return Tokens(np.asarray(ids, dtype=np.int32), pairs[:, 0], pairs[:, 1], in_bytes=False)


def _from_bytes(ids: list[int], text: str, table: list[bytes], backend: Tokenizer) -> Tokens:
    pieces = [table[token] for token in ids]
    if b"".join(pieces) != text.encode():
        return _from_offsets(ids, backend.encode(text, add_special_tokens=False).offsets)
    ends = np.cumsum(np.fromiter(map(len, pieces), dtype=np.int64, count=len(pieces)))
    starts = np.concatenate((np.zeros(1, dtype=np.int64), ends[:-1])) if len(pieces) else ends
    return Tokens(np.asarray(ids, dtype=np.int32), starts, ends, in_bytes=True)


@lru_cache(maxsize=8)
def _token_bytes(tokenizer: PreTrainedTokenizerFast) -> list[bytes] | None:
    """The bytes of every token id of a byte-level tokenizer; None for another kind."""
    backend = tokenizer.backend_tokenizer
    if not isinstance(backend.decoder, decoders.ByteLevel):
        return None
    byte_of = _byte_of_character()
    vocabulary: dict[str, int] = backend.get_vocab(with_added_tokens=True)
    table = [b""] * (max(vocabulary.values()) + 1)
    added = backend.get_added_tokens_decoder()
    for token, index in vocabulary.items():
        if index not in added:
            if not all(character in byte_of for character in token):
                return None
            table[index] = bytes(byte_of[character] for character in token)
    for index, special in added.items():
        table[index] = special.content.encode()
    return table


def _byte_of_character() -> dict[str, int]:
    """GPT-2's visible character for every byte, reversed: printable Latin-1 stands for itself, the rest is
    shifted to 256 and up (Radford et al. 2019, the byte-level BPE of GPT-2)."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in set(visible)]
    return {chr(b): b for b in visible} | {chr(256 + i): b for i, b in enumerate(hidden)}
