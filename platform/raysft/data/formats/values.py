"""Values inside a record -> texts, numbers, lists; or a refusal. Knows no format. Pure.

Files write one value in several ways: a list as JSON text (CSV, many JSONL files), or as an object of lists (Hugging
Face's `Sequence` of objects). All of them are read here, so that no format has to care.
"""

from __future__ import annotations

import ast
import json
import math
import warnings
from collections.abc import Mapping
from typing import Any

import orjson

from raysft.data.read.json_values import (
    MAX_DEPTH,
    RepeatedKeyError,
    is_too_deep,
    loads_exactly,
    may_be_rounded,
    may_repeat_key,
)
from raysft.data.records import Refusal

Record = Mapping[str, Any]

_MAX_LITERAL_CHARS = 1 << 20  # Python's parser takes some hundred times that in memory
_TEXT_KEYS = ("text", "value", "content")


class RefusedError(Exception):
    """Carries a Refusal out of nested readers; never leaves data/formats/."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.refusal = Refusal(reason, detail)


def column_names(record: Record) -> str:
    """The record's columns, for people."""
    return ", ".join(printable_key(str(name)) for name in sorted(record, key=str)) or "none"


def printable_key(name: str) -> str:
    """A key for people: control characters escaped, long ones cut."""
    shown = name if name.isprintable() else name.encode("unicode_escape").decode()
    return shown if len(shown) <= 80 else shown[:77] + "..."


def is_empty(value: Any) -> bool:
    """Does it hold nothing: null, an empty text, list or object? (An empty text is CSV's null.)"""
    return value is None or (type(value) in (str, list, dict, tuple) and not value)


def text_of(value: Any) -> str:
    """A value of a few as recipes write it: whole numbers without a point, true and false as words."""
    if isinstance(value, float) and value.is_integer():  # a whole number in a column that has gaps
        value = int(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def read_text(value: Any, column: str, *, optional: bool = False) -> str:
    """A string, or text parts (`{type: text, text}`) joined. Several plain texts are several texts: refused."""
    if isinstance(value, str):
        return value
    if value is None and optional:
        return ""
    if isinstance(value, list):
        if len(value) > 1 and any(isinstance(part, str) for part in value):
            raise RefusedError(
                "several_texts", f"`{column}` holds {len(value)} texts where one is read: {short_value(value)}"
            )
        return "".join(part if isinstance(part, str) else text_of_part(part, column) for part in value)
    if isinstance(value, Refusal):
        raise RefusedError(value.reason, f"`{column}`: {value.detail}")
    raise RefusedError("wrong_type", f"`{column}` must be text, got {short_value(value)}")


def text_of_part(part: Any, column: str) -> str:
    """The text of `{type: text, text}`; the types of OpenAI, the keys that LLaMA-Factory and others write, and
    Bedrock's `{text}`."""
    if isinstance(part, dict) and part.get("type") in ("text", "input_text", "output_text"):
        for key in _TEXT_KEYS:
            if isinstance(text := part.get(key), str):
                return text
    if isinstance(part, dict) and isinstance(text := part.get("text"), str) and part.keys() == {"text"}:
        return text
    kind = part.get("type") if isinstance(part, dict) else part
    raise RefusedError("unsupported_content", f"`{column}` has a part of type {short_value(kind)}; only text is read")


def read_number(value: Any, column: str) -> float:
    """A finite number; also as text, because every value of a CSV file is text."""
    number = number_of(value)
    if number is None:
        raise RefusedError("wrong_type", f"`{column}` must be a finite number, got {short_value(value)}")
    return number


def number_of(value: Any) -> float | None:
    """The finite number that a value is, or that its text is; None: it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def read_list(value: Any, column: str) -> list[Any]:
    """A list, whichever way it is written."""
    value = decoded(value)
    if isinstance(value, dict):
        value = _of_lists(value, column)
    if not isinstance(value, list | tuple):
        if isinstance(value, Refusal):
            raise RefusedError(value.reason, f"`{column}`: {value.detail}")
        raise RefusedError("wrong_type", f"`{column}` must be a list, got {short_value(value)}")
    return list(value)


def _of_lists(value: dict[str, Any], column: str) -> Any:
    """{role: [...], content: [...]} -> [{role, content}, ...]; another object is a list of itself."""
    lists = {key: inner for key, inner in value.items() if inner is not None}
    if not lists or not all(isinstance(inner, list) for inner in lists.values()):
        return [value]
    if len({len(inner) for inner in lists.values()}) > 1:
        sizes = ", ".join(f"{key} {len(inner)}" for key, inner in lists.items())
        raise RefusedError("wrong_type", f"`{column}` is an object of lists of different lengths: {sizes}")
    return [dict(zip(lists, items, strict=True)) for items in zip(*lists.values(), strict=True)]


def read_turns(value: Any, column: str) -> list[dict[str, Any]]:
    """A list of objects, whichever way it is written."""
    if type(value) is list and _are_objects(value):
        return value
    turns = [decoded(item) for item in read_list(value, column)]
    if not _are_objects(turns):
        raise RefusedError("wrong_type", f"`{column}` must be a list of objects, got {short_value(value)}")
    return turns


def _are_objects(values: list[Any]) -> bool:
    return set(map(type, values)) <= {dict}


def decoded(value: Any) -> Any:
    """JSON text, or a list or object as Python writes it (`str()` of one), decoded; all else as it is.

    Raises RefusedError where a key stands in one object twice, with different values.
    """
    if not isinstance(value, str):
        return value
    try:
        found: Any = orjson.loads(value)
    except orjson.JSONDecodeError:
        found = _leniently(value)
    else:
        if _is_deep(value, found):
            return value
        text = value.encode()
        if may_be_rounded(text) or (isinstance(found, list | dict) and may_repeat_key(text, found)):
            found = _leniently(value)
    return value if _is_deep(value, found) else found


def _is_deep(text: str, found: Any) -> bool:
    return isinstance(found, list | dict) and text.count("[") + text.count("{") > MAX_DEPTH and is_too_deep(found)


def _leniently(text: str) -> Any:
    """What orjson is too strict for, or is no JSON at all."""
    try:
        return loads_exactly(text)
    except RepeatedKeyError as error:
        raise RefusedError("repeated_key", f"{error}: {short_value(text)}") from None
    except (ValueError, RecursionError):
        is_literal = text.lstrip()[:1] in ("[", "{") and len(text) <= _MAX_LITERAL_CHARS
        return _literal(text) if is_literal else text


def _literal(text: str) -> Any:
    """What `str()` of lists, objects, texts and numbers reads back as; else the text itself. Runs no code."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in the data
            tree = ast.parse(text.lstrip(" \t"), mode="eval")
            found = ast.literal_eval(tree)
        _check_repeated(tree, text)
        return json.loads(json.dumps(found))  # no sets, bytes or complex numbers
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return text


def _check_repeated(tree: ast.AST, text: str) -> None:
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            pairs = [(ast.literal_eval(key), value) for key, value in zip(node.keys, node.values, strict=True) if key]
            last = dict(pairs)
            for key, value in pairs:
                if ast.dump(value) != ast.dump(last[key]):
                    raise RefusedError(
                        "repeated_key", f"the key {key!r} stands twice in one object: {short_value(text)}"
                    )


def short_value(value: Any) -> str:
    """A value for an error text."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
