"""Tools and calls of tools, in OpenAI's nested form. Pure.

Forms read: {function: {name, arguments}}, {name, arguments} (also `parameters`, `args`, `input`), arguments as an
object or as JSON text; of tools also Anthropic's {name, description, input_schema}. A call without arguments has the
empty object, however that is written.
"""

from __future__ import annotations

from typing import Any

from raysft.data.formats.unread import KeyLedger
from raysft.data.formats.values import RefusedError, decoded, is_empty, read_list, short_value

_ARGUMENTS = ("arguments", "parameters", "args", "input")
_NAME_AND_ARGUMENTS = {"name", "arguments"}
_CALL_KEYS = frozenset(("id", "type", "function", "index"))


def read_calls(value: Any, column: str, place: str, account: KeyLedger) -> tuple[dict[str, Any], ...]:
    """To `{type: function, function: {name, arguments}}`, with the id where there is one. Raises RefusedError."""
    return tuple(_read_call(decoded(call), f"{place}{column}[].", account) for call in read_list(value, column))


def _read_call(call: Any, place: str, account: KeyLedger) -> dict[str, Any]:
    inner = call
    if isinstance(call, dict) and isinstance(call.get("function"), dict):
        inner = call["function"]
        _account_for(call, _CALL_KEYS, place, account)
        place += "function."
    if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
        raise RefusedError("wrong_type", f"a tool call needs a name, got {short_value(call)}")
    key = "arguments"
    if inner.keys() != _NAME_AND_ARGUMENTS:
        key = next((key for key in _ARGUMENTS if not is_empty(inner.get(key))), key)
        own = _CALL_KEYS if inner is call else frozenset(())
        _account_for(inner, own | {"name", key}, place, account)
    arguments = _read_arguments(inner.get(key), inner["name"])
    found: dict[str, Any] = {"type": "function", "function": {"name": inner["name"], "arguments": arguments}}
    if not is_empty(identity := call.get("id")):
        found["id"] = str(identity)
    return found


def _account_for(found: dict[str, Any], known: frozenset[str], place: str, account: KeyLedger) -> None:
    if not found.keys() <= known:
        for key in found.keys() - known:
            account.unread(place, key, found[key])


def _read_arguments(value: Any, name: str) -> dict[str, Any]:
    if value is None or (isinstance(value, str) and not value.strip()):
        return {}
    arguments = decoded(value)
    if arguments is None:  # the text `null`
        return {}
    if not isinstance(arguments, dict):
        raise RefusedError(
            "bad_arguments", f"the arguments of the call of {name!r} are no JSON object: {short_value(value)}"
        )
    return arguments


def read_tools(value: Any, column: str) -> tuple[dict[str, Any], ...]:
    """To a tuple of `{type: function, function: {...}}`; every key of a tool is kept. Raises RefusedError."""
    if is_empty(value) or is_empty(value := decoded(value)):
        return ()
    tools = [decoded(tool) for tool in read_list(value, column)]
    if not all(isinstance(tool, dict) for tool in tools):
        raise RefusedError("wrong_type", f"`{column}` must be a list of objects, got {short_value(value)}")
    return tuple(tool if "function" in tool else {"type": "function", "function": _function(tool)} for tool in tools)


def _function(tool: dict[str, Any]) -> dict[str, Any]:
    """A tool without OpenAI's outer object; Anthropic's has its parameters under another name."""
    if "input_schema" not in tool or "parameters" in tool:
        return tool
    kept = {
        key: value for key, value in tool.items() if key != "cache_control" and (key, value) != ("type", "custom")
    }
    return {"parameters" if key == "input_schema" else key: value for key, value in kept.items()}
