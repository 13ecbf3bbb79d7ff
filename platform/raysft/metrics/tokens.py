"""A text as the words that metrics count: in every script, and as the usual libraries have them in Latin script.

Libraries made for English count nothing of Chinese (rouge-score: 0.0, in silence). Here a text in another script than
Latin is cut at what is no letter, digit or mark; scripts that write no blanks between words, character by character.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Callable, Sequence

OTHER_SCRIPT = 0.1
"""Share of a text's letters outside Latin script from which it is no text in Latin script."""

_WITHOUT_BLANKS = (
    *((0x2E80, 0x2FDF), (0x3005, 0x3007), (0x3040, 0x30FF), (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF)),
    *((0xF900, 0xFAFF), (0x20000, 0x3FFFF)),  # Han and kana
    *((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF)),  # Thai, Lao, Burmese, Khmer
)
_HAN = ((0x2E80, 0x2FDF), (0x3005, 0x3007), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF))
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def is_latin(text: str) -> bool:
    """Is a text in Latin script, a word or two aside? One without letters is."""
    return letter_share(text, lambda code: code >= 0x250 and not 0x1E00 <= code <= 0x1EFF) < OTHER_SCRIPT


def is_han(code: int) -> bool:
    """Is a character Chinese?"""
    return code >= 0x2E80 and _within(code, _HAN)


def letter_share(text: str, holds: Callable[[int], bool]) -> float:
    """Share of a text's letters of whose code point something holds; full-width ones count as what they stand for."""
    letters = [ord(letter) for letter in unicodedata.normalize("NFKC", text) if letter.isalpha()]
    return sum(map(holds, letters)) / len(letters) if letters else 0.0


def writes_no_blanks(code: int) -> bool:
    """Is a character of a script that writes no blanks between words?"""
    return code >= 0x0E00 and _within(code, _WITHOUT_BLANKS)


def words(text: str, latin: bool) -> list[str]:
    """The words of a text, in small letters. latin: as rouge-score cuts them, a to z and digits."""
    if latin:
        return re.findall(r"[a-z0-9]+", text.lower())
    found: list[str] = []
    was_word = False
    for character in unicodedata.normalize("NFKC", text).lower():
        is_mark = unicodedata.category(character).startswith("M")
        if not (character.isalnum() or is_mark):
            was_word = False
        elif is_mark and found:
            found[-1] += character
        elif writes_no_blanks(ord(character)):
            found.append(character)
            was_word = False
        else:
            if was_word:
                found[-1] += character
            else:
                found.append(character)
            was_word = True
    return found


def plain_words(text: str, latin: bool) -> list[str]:
    """Words without case, punctuation and articles, as SQuAD's official script compares answers (Rajpurkar et al.
    2016); in other scripts without punctuation, as CMRC 2018 does."""
    if not latin:
        return words(text, latin=False)
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def _within(code: int, ranges: Sequence[tuple[int, int]]) -> bool:
    return any(first <= code <= last for first, last in ranges)
