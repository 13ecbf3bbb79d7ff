"""The user's own function of the rule `map`: imported, called, and what it gives checked."""

from __future__ import annotations

import hashlib
import importlib
import inspect
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

from raysft.data.records import Conversation
from raysft.data.rules.record.content import tagged
from raysft.errors import DataError, RecipeError

_EXPECTED = "function(conversation, random) -> a Conversation, a list of them, or None to refuse the record"


def load_function(path: str) -> Callable[..., Any]:
    """The function at `package.module:function`. Raises RecipeError when there is none."""
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's module does when it is imported
        raise RecipeError(
            f"the rule map cannot import {module_name}",
            got=f"{type(error).__name__}: {error}",
            expected="a module that Python finds on every node",
            fix="install it, or put its folder on PYTHONPATH",
        ) from error
    function = vars(module).get(name)
    if not callable(function):
        raise RecipeError(f"the rule map finds no function {name} in {module_name}", expected=_EXPECTED)
    found: Callable[..., Any] = function
    return found


def source_hash(path: str) -> str:
    """sha256 of the source of the module that the recipe names; what it imports is not covered."""
    load_function(path)
    module_name = path.partition(":")[0]
    try:
        source = inspect.getsource(importlib.import_module(module_name))
    except (OSError, TypeError) as error:
        raise RecipeError(
            f"the rule map cannot read the source of {module_name}",
            got=str(error),
            expected="a module in a .py file: its contents decide whether a store is made anew",
        ) from error
    return hashlib.sha256(source.encode()).hexdigest()


def call(function: Callable[..., Any], path: str, one: Conversation, random: Random) -> list[Conversation]:
    """What the function makes of a conversation: [] refuses it. Id and source stay the record's own."""
    try:
        result = function(one, random)
    except Exception as error:  # the user's code: say whose record it was
        raise DataError(
            f"{path} failed on record {one.id} of {one.source or 'the data'}",
            got=f"{type(error).__name__}: {error}",
            expected=_EXPECTED,
            fix="mend the function; return None for records that it cannot use",
        ) from error
    made = result if isinstance(result, list) else [] if result is None else [result]
    for conversation in made:
        if not isinstance(conversation, Conversation) or not any(
            message.role in ("assistant", "text") for message in conversation.messages
        ):
            raise DataError(
                f"{path} gave no conversation with an answer for record {one.id} of {one.source or 'the data'}",
                got=f"{type(conversation).__name__}: {str(conversation)[:200]}",
                expected=_EXPECTED,
            )
    return [
        conversation if conversation == one else tagged(_of(one, conversation), "augmented:map")
        for conversation in made
    ]


def _of(one: Conversation, made: Conversation) -> Conversation:
    return made if (made.id, made.source) == (one.id, one.source) else replace(made, id=one.id, source=one.source)
