"""Words and phrases of a list, found in texts: whole words, or anywhere in scripts without spaces."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from raysft.data.rules.record.content import SPACELESS, TextSpan, longest_first
from raysft.errors import DataError
from raysft.storage import read_bytes

_WORD = re.compile(r"\w+")
_HAS_SPACELESS = re.compile(f"[{SPACELESS}]")


class Lexicon:
    """Finds the entries of `kinds` (phrase -> what a hit is called) in time that does not grow with their number."""

    def __init__(self, kinds: Mapping[str, str]) -> None:
        self._kinds: dict[str, str] = {}
        sizes: set[int] = set()
        starts: dict[str, set[int]] = {}
        for phrase, kind in kinds.items():
            if _HAS_SPACELESS.search(phrase):
                key = phrase.lower()
                starts.setdefault(key[0], set()).add(len(key))
            else:
                key = " ".join(_WORD.findall(phrase.casefold()))
                sizes.add(key.count(" ") + 1)
            self._kinds.setdefault(key, kind)
        self._sizes = sorted(sizes, reverse=True)
        self._starts = {first: sorted(lengths, reverse=True) for first, lengths in starts.items()}
        self._start = re.compile(f"[{''.join(map(re.escape, starts))}]") if starts else None

    def find(self, text: str) -> list[TextSpan]:
        """The hits, the longest of those that overlap."""
        return longest_first((*self._whole_words(text), *self._anywhere(text)), len(text))

    def _whole_words(self, text: str) -> Iterator[TextSpan]:
        """Runs of words that are an entry; what stands between the words does not matter."""
        if not self._sizes:
            return
        found = [(match.start(), match.end()) for match in _WORD.finditer(text)]
        words = [text[start:end].casefold() for start, end in found]
        for size in self._sizes:
            for first in range(len(words) - size + 1):
                key = words[first] if size == 1 else " ".join(words[first : first + size])
                if key in self._kinds:
                    yield TextSpan(found[first][0], found[first + size - 1][1], self._kinds[key])

    def _anywhere(self, text: str) -> Iterator[TextSpan]:
        if self._start is None:
            return
        lowered = text.lower()
        if len(lowered) != len(text):  # a few letters grow: then case counts
            lowered = text
        for match in self._start.finditer(lowered):
            start = match.start()
            for length in self._starts[match[0]]:
                key = lowered[start : start + length]
                if key in self._kinds:
                    yield TextSpan(start, start + length, self._kinds[key])
                    break


def read_entries(location: str, what: str) -> Iterator[tuple[int, str]]:
    """(line number, line) of a text file, without empty lines and comments (`# ...`)."""
    try:
        lines = read_bytes(location).removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise DataError(f"cannot read the {what} {location}", got=str(error), fix="check the path") from error
    for number, line in enumerate(lines, 1):
        try:
            entry = line.decode().strip()
        except UnicodeDecodeError as error:
            raise DataError(
                f"{location}:{number} is not UTF-8", got=str(error), expected=f"a {what} in UTF-8"
            ) from error
        if entry and not entry.startswith("#"):
            yield number, entry


def read_word_list(location: str) -> list[str]:
    """The words and phrases of a list, one per line. Raises DataError with the line."""
    entries = []
    for number, entry in read_entries(location, "word list"):
        if not _WORD.search(entry):
            raise DataError(
                f"{location}:{number} has no word", got=entry, expected="one word or phrase per line, or # comment"
            )
        entries.append(entry)
    if not entries:
        raise DataError(f"the word list {location} is empty", expected="one word or phrase per line")
    return entries


def read_synonyms(location: str) -> dict[str, tuple[str, ...]]:
    """word -> synonyms, from lines `word<TAB>synonym, synonym`. Raises DataError with the line."""
    table: dict[str, tuple[str, ...]] = {}
    for number, entry in read_entries(location, "synonym table"):
        word, _, rest = entry.partition("\t")
        synonyms = tuple(filter(None, (synonym.strip() for synonym in rest.split(","))))
        if not _WORD.search(word) or not synonyms:
            raise DataError(f"{location}:{number} is no entry", got=entry, expected="word<TAB>synonym, synonym")
        table[word.strip()] = (*table.get(word.strip(), ()), *synonyms)
    if not table:
        raise DataError(f"the synonym table {location} is empty", expected="lines of word<TAB>synonym, synonym")
    return table
