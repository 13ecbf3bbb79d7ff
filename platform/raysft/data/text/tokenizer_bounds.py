"""What a tokenizer may cost: its files are somebody else's. Owns the bounds and the errors that say so.

Regular expressions have a bound of their own (Oniguruma gives up after ten million steps, which the library raises
as a panic); what replaces letters by other ones has none. Both are looked at when a tokenizer is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tokenizers import Tokenizer

from raysft.errors import ModelError

_MAX_GROWTH = 10_000
"""Characters that one character of a text may become by replacements."""
_PROBES = ("a" * 40 + "!", "1" * 40 + "x", " " * 40 + "x", "\n" * 40 + "x", "xy" * 20 + "!", "-" * 40 + "a")


def check_bounds(backend: Tokenizer, source: str) -> None:
    """Raises ModelError for a tokenizer that makes long texts of short ones, or whose expressions do not end."""
    state = json.loads(backend.to_str())
    growth = 1
    for content in _replacements([state.get("normalizer"), state.get("pre_tokenizer")]):
        growth *= max(1, len(content))
    if growth > _MAX_GROWTH:
        raise ModelError(
            f"the tokenizer {source!r} makes long texts of short ones",
            got=f"replacements that make up to {growth:,} characters of one",
            expected=f"at most {_MAX_GROWTH:,}",
            fix="look at `normalizer` in its tokenizer.json, or use another tokenizer",
        )
    with bounded(source):
        for probe in _PROBES:
            backend.encode(probe, add_special_tokens=False)


@contextmanager
def bounded(source: str) -> Iterator[None]:
    """Around the tokenizing of texts: a regular expression that gives up is an error of the tokenizer's."""
    try:
        yield
    except BaseException as panic:
        if type(panic).__name__ != "PanicException":  # Rust's, which the library does not name
            raise
        raise ModelError(
            f"the tokenizer {source!r} does not come to an end on a text",
            got=str(panic)[:200],
            expected="regular expressions that end",
            fix="look at `pre_tokenizer` in its tokenizer.json, or use another tokenizer",
        ) from None


def _replacements(parts: Any) -> Iterator[str]:
    """What normalizers put in the place of something, however deep they stand in each other."""
    if isinstance(parts, dict):
        if parts.get("type") in ("Replace", "Prepend"):
            yield str(parts.get("content") or parts.get("prepend") or "")
        yield from _replacements(list(parts.values()))
    elif isinstance(parts, list):
        for part in parts:
            yield from _replacements(part)
