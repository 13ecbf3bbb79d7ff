"""Changes of a recipe as Python values -> the assignments that the command line has: `train.max_steps=50`."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence

from pydantic import BaseModel

from raysft.errors import RecipeError

_ESCAPED = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
"""What JSON leaves as it is in a string, and YAML does not allow there."""


def assignments(changes: Mapping[str, object] | Sequence[str]) -> list[str]:
    """`{"data.max_tokens": 512}` -> `["data.max_tokens=512"]`. Raises RecipeError for what no recipe can hold.

    Values are written as JSON, which YAML reads as it was: the text "1e-3" stays a text, 1e-3 a number.
    """
    if isinstance(changes, str) or not isinstance(changes, Mapping | Sequence):
        raise _not_changes(repr(changes))
    if isinstance(changes, Mapping):
        return [f"{_name(name)}={_text(str(name), value)}" for name, value in changes.items()]
    for change in changes:
        if not isinstance(change, str):
            raise _not_changes(repr(change))
    return list(changes)


def _name(name: object) -> str:
    if not isinstance(name, str) or "=" in name:
        raise _not_changes(f"the key {name!r}")
    return name


def _text(name: str, value: object) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, default=_plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise RecipeError(
            f"a recipe cannot hold the value of {name}",
            got=f"{type(value).__name__}: {error}",
            expected="None, a truth value, a number, a text, a path, or lists and dicts of these",
            fix="give a plain value, for example float(x) for one of an array",
        ) from None
    return _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _plain(value: object) -> object:
    """A path, or a section of a recipe, as JSON values."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_unset=True)
    raise TypeError("not a plain value")


def _not_changes(got: str) -> RecipeError:
    return RecipeError(
        "changes of a recipe cannot be read",
        got=got,
        expected='{"section.field": value}, or a list of "section.field=value"',
        fix='for example raysft.load("recipe.yaml", {"train.max_steps": 50})',
    )
