"""Patterns of file names, as in shells and in Python: `*`, `?`, `[...]`, `**`, braces. Pure; knows no storage.

`*` and `?` stay within one name, `[!0]` and `[^0]` are any character but 0, `**` as a whole name is any number of
folders (elsewhere it is `*`), `{a,b}` and `{01..16}` are written out before anything is matched. Hidden names match
only a pattern that begins with a dot, as in both.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice, pairwise

from raysft.errors import DataError

_MARKS = re.compile(r"[*?\[]")
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.(-?\d+))?|([A-Za-z])\.\.([A-Za-z])")
_MOST_ALTERNATIVES = 10_000
_MOST_BRACES = 50


def is_pattern(text: str) -> bool:
    """Does it hold a mark of a pattern, outside of braces?"""
    return _MARKS.search(text) is not None


def expand_braces(pattern: str) -> list[str]:
    """The patterns that braces stand for, in their order, each once. Raises DataError for more than 10,000."""
    is_short = pattern.count("{") <= _MOST_BRACES
    found = list(dict.fromkeys(islice(_alternatives(pattern), _MOST_ALTERNATIVES + 1))) if is_short else []
    if not is_short or len(found) > _MOST_ALTERNATIVES:
        raise DataError(
            f"the braces of {pattern[:200]} stand for too many names",
            got=f"more than {_MOST_ALTERNATIVES:,} names, or than {_MOST_BRACES} braces",
            expected="fewer alternatives",
            fix="use `*` or name the folder",
        )
    return found


def _alternatives(text: str) -> Iterator[str]:
    """Braces without a comma or a range stay as they are, as in bash."""
    start = text.find("{")
    while start >= 0:
        commas, end = _inside(text, start)
        options = None if end is None else _options(text, start, commas, end)
        if end is not None and options is not None:
            head, tails = text[:start], text[end + 1 :]
            for option in options:
                for middle in _alternatives(option):
                    yield from (head + middle + tail for tail in _alternatives(tails))
            return
        start = text.find("{", start + 1)
    yield text


def _inside(text: str, start: int) -> tuple[list[int], int | None]:
    """(commas of this brace, its end); None: it is never closed."""
    depth, commas = 0, list[int]()
    for place in range(start, len(text)):
        if text[place] == "{":
            depth += 1
        elif text[place] == "}":
            depth -= 1
            if depth == 0:
                return commas, place
        elif text[place] == "," and depth == 1:
            commas.append(place)
    return [], None


def _options(text: str, start: int, commas: Sequence[int], end: int) -> Sequence[str] | Iterator[str] | None:
    if commas:
        borders = [start, *commas, end]
        return [text[a + 1 : b] for a, b in pairwise(borders)]
    found = _RANGE.fullmatch(text[start + 1 : end])
    if found is None:
        return None
    if found[4]:
        first, last = ord(found[4]), ord(found[5])
        return [chr(code) for code in range(first, last + (1 if first <= last else -1), 1 if first <= last else -1)]
    first, last, step = int(found[1]), int(found[2]), abs(int(found[3] or 1)) or 1
    padded = any(len(number.lstrip("-")) > 1 and number.lstrip("-")[0] == "0" for number in (found[1], found[2]))
    width = max(len(found[1]), len(found[2])) if padded else 0
    numbers = range(first, last + 1, step) if first <= last else range(first, last - 1, -step)
    return (f"{number:0{width}d}" if width else str(number) for number in numbers)


def split_pattern(path: str) -> tuple[str, list[str]]:
    """(the folder before the first name with a mark, that name and those after it)."""
    names = path.split("/")
    first = next(place for place, name in enumerate(names) if is_pattern(name))
    return "/".join(names[:first]), [name for name in names[first:] if name]


def matches(name: str, pattern: str) -> bool:
    """Does one name match one pattern without a slash?"""
    if name.startswith(".") and not pattern.startswith("."):
        return False
    return _compiled(pattern).match(name) is not None


def matches_path(names: Sequence[str], patterns: Sequence[str]) -> bool:
    """Do the names of a path match those of a pattern, `**` being any number of folders that are not hidden?

    At the end `**` is every file below.
    """
    reached = {0}
    for place, name in enumerate(names):
        is_last = place == len(names) - 1
        after: set[int] = set()
        for state in _closure(reached, patterns):
            if state == len(patterns):
                continue
            if patterns[state] != "**":
                if matches(name, patterns[state]):
                    after.add(state + 1)
            elif not name.startswith("."):
                after.add(state + 1 if is_last and state == len(patterns) - 1 else state)
        reached = after
    return len(patterns) in reached


def _closure(states: set[int], patterns: Sequence[str]) -> set[int]:
    """`**` may be no folder at all."""
    found = set(states)
    for state in sorted(states):
        while state < len(patterns) and patterns[state] == "**":
            state += 1
            found.add(state)
    return found


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(re.sub(r"\*+", "*", pattern.replace("[^", "[!"))))
