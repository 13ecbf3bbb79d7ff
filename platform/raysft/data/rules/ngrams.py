"""Which texts share a word n-gram with a benchmark (Brown et al., "Language models are few-shot learners", app. C).

Words are compared without case and punctuation; in scripts without spaces a character is a word. A benchmark text
shorter than n words counts as a whole, from 8 words on: shorter ones occur by chance. Pure but for reading the files.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raysft.data.read.sources import expand, read_all

UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
"""Scripts written without spaces, as a range of a pattern: Thai, Lao, Burmese, Khmer, Japanese, Chinese."""

_ASCII = re.compile(r"\w+", re.ASCII)
_ANY = re.compile(f"[{UNSPACED}]|[^\\W{UNSPACED}]+")
_MIN_WHOLE = 8  # words
_FACTOR = 0x9E3779B97F4A7C15  # odd, so it has an inverse modulo 2^64
_INVERSE = pow(_FACTOR, -1, 2**64)
_BORDER = ""  # no word, so no n-gram of a benchmark reaches over it
_MEMO = 1 << 20

Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class Benchmarks:
    """The n-grams of benchmark texts: sorted hashes by the number of words."""

    ngrams: dict[int, Hashes]

    def share(self, texts: Sequence[str]) -> list[bool]:
        """Whether each text shares an n-gram with a benchmark."""
        words: list[str] = []
        ends = []
        for text in texts:
            words += _words(text)
            words.append(_BORDER)
            ends.append(len(words))
        sums = _sums(words)
        found = np.zeros(len(texts), np.bool_)
        for length, known in self.ngrams.items():
            hashes = _windows(sums, length)
            if len(hashes) == 0:
                continue
            nearest = known[np.minimum(np.searchsorted(known, hashes), len(known) - 1)]
            found[np.searchsorted(ends, np.flatnonzero(nearest == hashes), side="right")] = True
        shared: list[bool] = found.tolist()
        return shared


def read_benchmarks(files: Sequence[str], ngram: int) -> Benchmarks:
    """The n-grams of every text of every record of some files."""
    found: dict[int, list[Hashes]] = defaultdict(list)
    for raw in read_all(expand(files)):
        for text in _strings(raw.value) if isinstance(raw.value, dict) else ():
            words = _words(text)
            length = min(len(words), ngram)
            if length >= min(ngram, _MIN_WHOLE):
                found[length].append(_windows(_sums(words), length))
    return Benchmarks({length: np.unique(np.concatenate(hashes)) for length, hashes in sorted(found.items())})


def stable_hash(text: str) -> int:
    """64 bits, the same in every process."""
    digest = hashlib.blake2b(text.encode(errors="replace"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


class _Memo(dict[str, int]):
    """Hashes of words, of which most come again."""

    def __missing__(self, word: str) -> int:
        if len(self) >= _MEMO:
            self.clear()
        value = self[word] = stable_hash(word)
        return value


_HASHES = _Memo()


def _sums(words: Sequence[str]) -> Hashes:
    """[len(words) + 1]: sums over the first words of hash[i] x FACTOR^i, modulo 2^64."""
    hashes = np.fromiter(map(_HASHES.__getitem__, words), np.int64, len(words)).view(np.uint64)
    powers = np.cumprod(np.full(len(words), _FACTOR, np.uint64), dtype=np.uint64)
    return np.concatenate((np.zeros(1, np.uint64), np.cumsum(hashes * powers, dtype=np.uint64)))


def _windows(sums: Hashes, length: int) -> Hashes:
    """A hash of every `length` words in a row, wherever they stand (Rabin & Karp)."""
    windows = sums[length:] - sums[:-length]
    return windows * np.cumprod(np.full(len(windows), _INVERSE, np.uint64), dtype=np.uint64)


def _words(text: str) -> list[str]:
    text = text.casefold()
    return _ASCII.findall(text) if text.isascii() else _ANY.findall(text)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)
