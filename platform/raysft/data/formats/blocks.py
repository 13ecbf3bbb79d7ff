"""Anthropic's content blocks -> turns as OpenAI writes them: calls beside the text, each result a turn. Pure.

    {role: assistant, content: [{type: text, text}, {type: tool_use, id, name, input}]}
    {role: user, content: [{type: tool_result, tool_use_id, content, is_error}, {type: text, text}]}

Of the Messages API (platform.claude.com/docs: tool use). Blocks of text and thinking are parts, which turns.py reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from raysft.data.formats.unread import KeyLedger
from raysft.data.formats.values import RefusedError, is_empty, short_value

_BLOCKS = frozenset(("tool_use", "tool_result"))
_RESULT_KEYS = frozenset(("type", "tool_use_id", "content", "is_error"))


def without_blocks(turns: list[dict[str, Any]], place: str, account: KeyLedger) -> list[dict[str, Any]]:
    """The turns with the blocks of calls and results taken apart. Raises RefusedError."""
    if list not in [type(turn.get("content")) for turn in turns]:
        return turns
    found: list[dict[str, Any]] = []
    names: dict[str, Any] = {}
    for turn in turns:
        parts = turn.get("content")
        kinds = {kind for kind in map(_kind, parts) if kind in _BLOCKS} if isinstance(parts, list) else set()
        if not kinds:
            found.append(turn)
        elif kinds == {"tool_use"}:
            found.append(_caller(turn, names))
        elif kinds == {"tool_result"}:
            found += _results(turn, names, f"{place}content[].", account)
        else:
            raise RefusedError(
                "unsupported_content", f"a turn has both calls and results of tools: {short_value(parts)}"
            )
    return found


def _kind(part: Any) -> Any:
    kind = part.get("type") if isinstance(part, dict) else None
    return kind if isinstance(kind, str) else None


def _caller(turn: dict[str, Any], names: dict[str, Any]) -> dict[str, Any]:
    """The turn with its calls beside its text; tells `names` the function of each call's id."""
    parts: Sequence[Any] = turn["content"]
    first = next(place for place, part in enumerate(parts) if _kind(part) == "tool_use")
    calls = parts[first:]
    if any(_kind(part) != "tool_use" for part in calls):
        raise RefusedError(
            "unsupported_content", f"`content` has something behind its first tool_use: {short_value(calls)}"
        )
    if not is_empty(turn.get("tool_calls")):
        raise RefusedError("wrong_type", "a turn has both `tool_calls` and parts of type tool_use")
    names.update({str(call["id"]): call.get("name") for call in calls if not is_empty(call.get("id"))})
    return {**turn, "content": parts[:first] or "", "tool_calls": list(calls)}


def _results(turn: dict[str, Any], names: dict[str, Any], place: str, account: KeyLedger) -> Iterator[dict[str, Any]]:
    """A tool's turn for each result, a turn of the user for what stands between and behind them; in order."""
    if turn.get("role") not in ("user", "tool"):
        raise RefusedError(
            "unsupported_content", f"a turn of role {short_value(turn.get('role'))} has results of tools"
        )
    said: list[Any] = []
    for part in turn["content"]:
        if _kind(part) != "tool_result":
            said.append(part)
            continue
        if said:
            yield {**turn, "content": said}
            said = []
        for key in part.keys() - _RESULT_KEYS:
            account.unread(place, key, part[key])
        if part.get("is_error"):
            account.unread(place, "is_error", True)
        identity = part.get("tool_use_id")
        content = part.get("content")
        yield {
            **turn,
            "role": "tool",
            "content": "" if content is None else content,
            "tool_call_id": identity,
            "name": names.get(str(identity)),
        }
    if said:
        yield {**turn, "content": said}
