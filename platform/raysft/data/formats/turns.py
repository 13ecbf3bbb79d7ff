"""Turns -> messages: ShareGPT's {from, value}, OpenAI's {role, content}, their dialects, also mixed. Pure.

A turn's text, its reasoning, its calls and whether it is trained may each be written in several ways, and null keys
are no keys, as files with one schema for all turns have them. A key that is not known is accounted for (unread.py).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from raysft.data.formats.blocks import without_blocks
from raysft.data.formats.names import LOSS_FLAGS, REASONING
from raysft.data.formats.tools import read_calls
from raysft.data.formats.train_detail import KEYS, read_parts
from raysft.data.formats.unread import KeyLedger
from raysft.data.formats.values import (
    RefusedError,
    column_names,
    decoded,
    is_empty,
    read_text,
    read_turns,
    short_value,
    text_of_part,
)
from raysft.data.records import Message, Note, plain_message

SPEAKERS, TEXTS = ("role", "from"), ("content", "value")
TURN_NAMES = (*SPEAKERS, *TEXTS, "tool_calls", "function_call", "tool_call_id", "name", *REASONING, *LOSS_FLAGS)
"""The keys of a turn that are read, and that data.columns may map."""

_ROLE_OF = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(
        ("assistant", "gpt", "chatgpt", "chatbot", "model", "bot", "ai", "function_call", "tool_call"), "assistant"
    ),
    **dict.fromkeys(("tool", "function", "observation", "tool_response", "tool_result", "ipython"), "tool"),
}
_CALLERS = ("function_call", "tool_call")
"""Speakers whose text is a call: LLaMA-Factory's and ms-swift's."""
_ROLE_CONTENT, _FROM_VALUE = {"role", "content"}, {"from", "value"}
_KNOWN = frozenset((*TURN_NAMES, "channel", *KEYS))
_REASONING, _LOSS_FLAGS = frozenset(REASONING), frozenset(LOSS_FLAGS)
_TALKS = ("messages", "conversations", "conversation")
_PARTS = frozenset(KEYS)
_CALLS = frozenset(("tool_calls", "function_call"))
_THINKING = ("thinking", "reasoning", "thought")
_PAIRS = (("human", "user", "input"), ("assistant", "gpt", "bot", "output"))


def read_messages(value: Any, column: str, account: KeyLedger) -> list[Message]:
    """The messages of a column of turns. Raises RefusedError.

    A call that follows its own turn's text or another call without a result between them is one turn with them, as
    OpenAI writes it. Harmony's turns in the channel `analysis` are the reasoning of the turn that follows.
    """
    messages: list[Message] = []
    thoughts: list[str] = []
    place = f"{column}[]."
    turns = _of_texts(value, column, account) or read_turns(value, column)
    if turns and "role" not in turns[0] and "from" not in turns[0]:
        turns = _split_pairs(turns)
    for turn in without_blocks(turns, place, account):
        message = _plain(turn)
        if message is not None and not thoughts:
            messages.append(message)
            continue
        message = message or _read_turn(turn, place, account)
        if turn.get("channel") == "analysis":
            thoughts.append(message.content)
            continue
        if thoughts:
            if message.role != "assistant" or message.reasoning:
                raise RefusedError("unread:channel", f"`{place}channel`: analysis that no answer follows")
            message, thoughts = replace(message, reasoning="\n".join(thoughts)), []
        last = messages[-1] if messages else None
        if last and message.tool_calls and _speaker(turn) in _CALLERS and _may_join(last, message):
            messages[-1] = replace(last, tool_calls=last.tool_calls + message.tool_calls)
        else:
            messages.append(message)
    if thoughts:
        raise RefusedError("unread:channel", f"`{place}channel`: analysis that no answer follows")
    return messages


def _of_texts(value: Any, column: str, account: KeyLedger) -> list[dict[str, Any]]:
    """LIMA's and UltraChat's talks, a list of texts: question and answer by turns. None of another kind."""
    if not isinstance(value, list) or len(value) < 2 or column not in _TALKS:
        return []
    if not all(isinstance(text, str) and text.lstrip()[:1] != "{" for text in value):
        return []
    account.notes.append(Note("guess", f"`{column}` holds texts: read as question and answer by turns"))
    speakers = ("user", "assistant")
    return [{"role": speakers[place % 2], "content": text} for place, text in enumerate(value)]


def _may_join(last: Message, call: Message) -> bool:
    return (last.role, last.train, call.reasoning) == ("assistant", call.train, "")


def _split_pairs(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """ms-swift's [{human, assistant}, ...], Capybara's [{input, output}, ...]: each a question with its answer."""
    found: list[dict[str, Any]] = []
    for turn in turns:
        question, answer = (next((name for name in names if name in turn), "") for names in _PAIRS)
        if len(turn) != 2 or not question or not answer:
            return turns
        found += [{"role": "user", "content": turn[question]}, {"role": "assistant", "content": turn[answer]}]
    return found


def _plain(turn: dict[str, Any]) -> Message | None:
    """A turn of nothing but a speaker and a text, as most are; None: look closer."""
    keys = turn.keys()
    if keys == _ROLE_CONTENT:
        speaker, text = turn["role"], turn["content"]
    elif keys == _FROM_VALUE:
        speaker, text = turn["from"], turn["value"]
    else:
        return None
    if type(text) is not str or type(speaker) is not str or speaker in _CALLERS or speaker not in _ROLE_OF:
        return None
    return plain_message(_ROLE_OF[speaker], text)


def _read_turn(turn: dict[str, Any], place: str, account: KeyLedger) -> Message:
    if account.reading.ignored:
        turn = account.without_ignored(turn, place)
    if not turn.keys() <= _KNOWN:
        for key in turn.keys() - _KNOWN:
            account.unread(place, key, turn[key])
    speaker = _speaker(turn)
    if is_empty(speaker):
        raise RefusedError("wrong_type", f"a turn needs `role` or `from`, got the keys {column_names(turn)}")
    role = _role(speaker)
    if "from" in turn and "role" in turn:
        _check_speakers(turn, place, account)
    key = _text_key(turn)
    calls = () if _CALLS.isdisjoint(turn) else _calls(turn, place, account)
    if speaker in _CALLERS and not calls:
        calls, content, reasoning = read_calls(_one_or_many(turn.get(key)), key, place, account), "", ""
    else:
        content, reasoning = _read_content(turn.get(key), f"{place}{key}[].", key, account, optional=bool(calls))
    reasoning = _reasoning(turn, content, reasoning)
    if reasoning and role != "assistant":
        raise RefusedError("unread:reasoning", f"a turn of role {role} has reasoning: {short_value(reasoning)}")
    if calls and role != "assistant":
        raise RefusedError("unread:tool_calls", f"a turn of role {role} calls a tool: {short_value(calls)}")
    channel = turn.get("channel")
    if channel not in (None, "", "final") and not (channel == "analysis" and role == "assistant" and not calls):
        account.unread(place, "channel", channel)
    identity, name = turn.get("tool_call_id"), turn.get("name")
    if role != "tool" and not is_empty(name):
        account.notes.append(Note("guess", f"`{place}name` says who speaks: most templates leave it out"))
    return Message(
        role,
        content,
        _train_flag(turn, role),
        calls,
        "" if is_empty(identity) else str(identity),
        reasoning,
        "" if is_empty(name) else read_text(name, "name"),
        None if _PARTS.isdisjoint(turn) else read_parts(turn, role, content),
    )


def _text_key(turn: dict[str, Any]) -> str:
    """`content` or `value`: the one that holds something. Both only with the same text."""
    if "value" not in turn or (is_empty(turn["value"]) and "content" in turn):
        return "content"
    content = turn.get("content")
    if not is_empty(content) and content != turn["value"]:
        raise RefusedError(
            "wrong_type", f"a turn has two texts: {short_value(content)} and {short_value(turn['value'])}"
        )
    return "value"


def _speaker(turn: dict[str, Any]) -> Any:
    return next((turn[key] for key in SPEAKERS if not is_empty(turn.get(key))), None)


def _check_speakers(turn: dict[str, Any], place: str, account: KeyLedger) -> None:
    """`role` decides. A `from` that is another role contradicts it; one that is none is not read."""
    role, other = turn["role"], turn["from"]
    if is_empty(role) or is_empty(other) or role == other:
        return
    if (known := _known_role(other)) is None:
        account.unread(place, "from", other)
    elif known != _known_role(role) or other in _CALLERS or role in _CALLERS:
        raise RefusedError(
            "wrong_type", f"a turn has two speakers: role {short_value(role)}, from {short_value(other)}"
        )


def _known_role(name: Any) -> str | None:
    return _ROLE_OF.get(name) or _ROLE_OF.get(name.strip().lower()) if isinstance(name, str) else None


def _role(name: Any) -> str:
    role = _known_role(name)
    if role is None:
        raise RefusedError("unknown_role", f"role {short_value(name)}; expected one of {', '.join(_ROLE_OF)}")
    return role


def _calls(turn: dict[str, Any], place: str, account: KeyLedger) -> tuple[dict[str, Any], ...]:
    """The calls in `tool_calls`, or the one in OpenAI's older `function_call`."""
    given = [name for name in ("tool_calls", "function_call") if not is_empty(turn.get(name))]
    if len(given) > 1:
        raise RefusedError("wrong_type", "a turn has both `tool_calls` and `function_call`")
    if not given:
        return ()
    return read_calls(_one_or_many(turn[given[0]]), given[0], place, account)


def _one_or_many(value: Any) -> Any:
    value = decoded(value)
    return [value] if isinstance(value, dict) and "name" in value else value


def _read_content(value: Any, place: str, key: str, account: KeyLedger, *, optional: bool) -> tuple[str, str]:
    """(text, reasoning) of a turn's content: text, or parts, of which those that think come first."""
    if not isinstance(value, list | dict):
        return read_text(value, key, optional=optional), ""
    parts = [value] if isinstance(value, dict) else value
    if not all(isinstance(part, dict) for part in parts):
        return read_text(value, key), ""
    texts: list[str] = []
    thoughts: list[str] = []
    for part in parts:
        kind = part.get("type")
        if kind not in _THINKING:
            texts.append(text_of_part(part, key))
            read = {"type", next(name for name in ("text", "value", "content") if isinstance(part.get(name), str))}
        else:
            name = next(
                (name for name in (*_THINKING, "text", "value", "content") if not is_empty(part.get(name))), kind
            )
            if any(texts):
                raise RefusedError(
                    "unsupported_content", f"`{key}` has reasoning behind its text: {short_value(part)}"
                )
            thoughts.append(read_text(part.get(name), f"{key}[].{name}"))
            read = {"type", name}
        if not part.keys() <= read:
            for other in part.keys() - read:
                account.unread(place, other, part[other])
    return "".join(texts), "".join(thoughts)


def _reasoning(turn: dict[str, Any], content: str, of_parts: str) -> str:
    """What the turn thought. Written twice it must be the same; in `<think>` of the text it stays there."""
    found = [of_parts] if of_parts else []
    if not _REASONING.isdisjoint(turn):
        found += [read_text(turn[key], key) for key in REASONING if not is_empty(turn.get(key))]
    if not found:
        return ""
    if any(other.strip() != found[0].strip() for other in found[1:]):
        raise RefusedError("two_reasonings", f"a turn has different reasoning under two keys: {short_value(found)}")
    _, opened, inside = content.partition("<think>")
    if opened:
        if inside.partition("</think>")[0].strip() == found[0].strip():
            return ""
        raise RefusedError(
            "two_reasonings", f"a turn has a <think> block and other reasoning: {short_value(found[0])}"
        )
    return found[0]


def _train_flag(turn: dict[str, Any], role: str) -> bool | None:
    """Is the turn trained? The flags of every dialect are a bool, or 0 and 1."""
    if _LOSS_FLAGS.isdisjoint(turn):
        return None
    given = {key: turn[key] for key in LOSS_FLAGS if turn.get(key) is not None}
    if not given:
        return None
    for key, flag in given.items():
        if not isinstance(flag, bool | int | float) or flag not in (0, 1):
            raise RefusedError(
                "wrong_type", f"`{key}` of a turn must be true or false (1 or 0), got {short_value(flag)}"
            )
    if len({bool(flag) for flag in given.values()}) > 1:
        raise RefusedError("wrong_type", f"a turn is trained and not trained at once: {short_value(given)}")
    trained = bool(next(iter(given.values())))
    if trained and role != "assistant":
        raise RefusedError(
            "trained_prompt",
            f"a turn of role {role} is marked as trained ({short_value(given)}); only answers are trained",
        )
    return trained
