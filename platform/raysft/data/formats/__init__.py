"""Record formats: a record of any of them -> conversations. Pure.

Owns what becomes of several answers, and whether what was read can be used. Everything ends in a Conversation;
nothing after this package knows which format a record had. Nothing that a record holds is lost in silence: it is in
the conversation, or counted in its notes, or the record is a `Refusal`: a value, because refusals are counted, not
raised. What data.columns makes of names is mapping.py, of files for tuning services services.py, of two answers and a
verdict duels.py, which format it is detect.py, what its columns mean readers.py, turns are turns.py, answers
answers.py, tools tools.py, and the account of what was not read unread.py. Reading files is sources.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from raysft.data.formats.answers import RecordContent
from raysft.data.formats.detect import detect_format
from raysft.data.formats.duels import as_compared
from raysft.data.formats.fields import FIELDS
from raysft.data.formats.halves import check_halves
from raysft.data.formats.mapping import account_for_columns, check_columns, rename
from raysft.data.formats.names import describes
from raysft.data.formats.readers import READERS
from raysft.data.formats.services import as_ours
from raysft.data.formats.tools import read_tools
from raysft.data.formats.unread import KeyLedger, Reading, says_again
from raysft.data.formats.values import Record, RefusedError, decoded, is_empty, short_value
from raysft.data.records import Conversation, Message, Note, Refusal, plain_conversation

__all__ = ["Reading", "check_columns", "check_turns", "detect_format", "read_record", "rename"]

_TOOLS = frozenset(("tools", "functions"))
_SCALARS = (str, int, float)  # a bool is an int
_MEDIA = {name: kind for kind in ("image", "video", "audio") for name in (kind, f"{kind}s")}
_NAMES = frozenset(name for fields in FIELDS.values() for name in fields)


def read_record(record: Record, reading: Reading, *, id: int, source: str) -> tuple[Conversation, ...] | Refusal:
    """One record's conversations: one, or with `several_answers: all` one for each answer."""
    original = record
    if reading.columns:
        record = rename(record, reading.columns)
    for under_our_names in (as_ours, as_compared):
        ours = under_our_names(record)
        if isinstance(ours, Refusal):
            return ours
        record = ours
    account = KeyLedger(record, reading)
    if reading.ignored:
        record = account.record = account.without_ignored(record)
    name: str | Refusal = reading.format
    if name == "auto":
        name = detect_format(record, matched=reading.matched, labelled=reading.labelled)
    if isinstance(name, Refusal):
        return name
    try:
        metadata = _metadata(record, name)
        found = READERS[name](account)
        tools = _tools(account)
        texts = _texts(found)
        refusal = _bad_text(record, texts)
        if refusal is not None:
            return refusal
        if reading.columns:
            account_for_columns(account, original, name)
        _account_for_rest(account, name, texts)
        endings = _endings(found, account)
    except RefusedError as refused:
        return refused.refusal
    conversations = []
    for messages in endings:
        if refusal := check_turns(messages):
            return refusal
        if not (tools or found.candidates or found.label is not None or found.wanted is not None or account.notes):
            conversations.append(plain_conversation(id, tuple(messages), source, metadata))
            continue
        conversations.append(
            Conversation(
                id=id,
                messages=tuple(messages),
                source=source,
                tools=tools,
                candidates=found.candidates,
                label=found.label,
                wanted=found.wanted,
                metadata=metadata,
                notes=tuple(account.notes),
            )
        )
    return tuple(conversations)


def _tools(account: KeyLedger) -> tuple[dict[str, Any], ...]:
    """The tools that `tools`, or OpenAI's older `functions`, declare; a record of any format may."""
    if _TOOLS.isdisjoint(account.record):
        return ()
    given = [name for name in ("tools", "functions") if not is_empty(account.record.get(name))]
    found = [read_tools(account.get(name), name) for name in given]
    if len(found) > 1 and found[0] != found[1]:
        raise RefusedError("wrong_type", "`tools` and `functions` are given, and differ")
    return found[0] if found else ()


def _texts(found: RecordContent) -> list[str]:
    """Every text of the record's messages."""
    messages: Sequence[Message] = found.messages
    if found.answers or found.candidates:
        messages = [*messages, *found.answers, *(m for candidate in found.candidates for m in candidate.messages)]
    texts = [message.content for message in messages]
    texts += [message.reasoning for message in messages if message.reasoning]
    return texts


def _account_for_rest(account: KeyLedger, format: str, texts: Sequence[str]) -> None:
    """Every column that was not read."""
    record = account.record
    if record.keys() <= account.used:
        return
    rest = [name for name in _to_account_for(tuple(record), account.reading.described) if name not in account.used]
    rest = [name for name in rest if not is_empty(record[name])]
    if not rest:
        return
    rest = [name for name in sorted(rest) if not says_again(record[name], texts)]
    check_halves(account, format, rest, texts)
    before = len(account.notes)
    for name in rest:
        account.unread("", name, record[name], inside=False)
    if account.reading.format == "auto" and len(account.notes) > before and not _NAMES.isdisjoint(rest):
        other = detect_format({name: record[name] for name in rest})
        if isinstance(other, str):
            columns = ", ".join(f"`{note.name}`" for note in account.notes[before:])
            account.notes.append(
                Note("guess", f"read as {format}, though {columns} would make it {other}; data.format decides")
            )


@lru_cache(maxsize=4096)
def _to_account_for(names: tuple[str, ...], described: frozenset[str]) -> tuple[str, ...]:
    """The columns that are not harmless."""
    return tuple(name for name in names if name not in described and not describes(name))


def _endings(found: RecordContent, account: KeyLedger) -> list[list[Message]]:
    """The messages with each answer that is to be trained."""
    if not found.answers:
        return [found.messages]
    number, policy = len(found.answers), account.reading.several_answers
    if policy == "refuse":
        raise RefusedError(
            "several_answers",
            f"{number} different answers: {short_value([answer.content for answer in found.answers])}; "
            "data.several_answers: `first` trains the first, `all` makes a sample of each",
        )
    if policy == "first":
        account.notes.append(Note("guess", "the first of several answers is trained (data.several_answers: first)"))
    return [[*found.messages, answer] for answer in found.answers[: 1 if policy == "first" else None]]


def _bad_text(record: Record, texts: Sequence[str]) -> Refusal | None:
    for text in texts:
        if "\0" in text:
            return Refusal("nul_character", f"a NUL (U+0000) after {text[: text.index(chr(0))][-40:]!r}")
        if "<image>" in text:
            return Refusal("media_in_text_run", "the text holds <image>; only text is trained")
    if not _MEDIA.keys().isdisjoint(record):
        for name in _MEDIA.keys() & record.keys():
            if record[name]:
                return Refusal("media_in_text_run", f"the column `{name}` is not empty; only text is trained")
            if any(f"<{_MEDIA[name]}>" in text for text in texts):
                return Refusal("media_in_text_run", f"the text holds <{_MEDIA[name]}>; only text is trained")
    return None


def check_turns(messages: Sequence[Message]) -> Refusal | None:
    """What is wrong with these turns; None: nothing.

    Questions and answers take turns, whoever begins; tool turns stand between a call and the next answer.
    """
    if len(messages) == 1 and messages[0].role == "text":
        return None if messages[0].content.strip() else Refusal("empty_answer", "the text is empty")
    if "assistant" not in [message.role for message in messages]:
        roles = ", ".join(message.role for message in messages) or "none"
        return Refusal("no_assistant_turn", f"roles seen: {roles}; expected at least one assistant turn")
    last: Message | None = None
    for number, message in enumerate(messages, 1):
        role = message.role
        if role == "system":
            continue
        before = last.role if last else "nothing"
        if role == "assistant":
            out_of_order = before == "assistant"
            if not message.content.strip() and not message.tool_calls and message.train is not False:
                return Refusal("empty_answer", f"turn {number}, of the assistant, is empty")
        elif role == "tool":
            out_of_order = before != "tool" and not _calls(last)
        else:
            out_of_order = before == "user"
        if out_of_order:
            return Refusal("role_order", f"turn {number}, of role {role}, follows {before}")
        last = message
    end = messages[-1].role
    if end != "assistant":
        reason = "ends_in_user_turn" if end == "user" else "role_order"
        return Refusal(reason, f"the last turn is of role {end}: nothing answers it")
    return None


def _calls(message: Message | None) -> bool:
    """Calls a tool; also as text, as Hermes and Qwen write it."""
    return message is not None and bool(message.tool_calls or "<tool_call>" in message.content)


@lru_cache(maxsize=4096)
def _beside(names: tuple[str, ...], format: str) -> tuple[str, ...]:
    """The columns that are none of the format's."""
    return tuple(name for name in names if name not in FIELDS[format])


def _metadata(record: Record, format: str) -> dict[str, Any]:
    """The scalar columns that the format does not read, and those in `metadata`."""
    names = _beside(tuple(record), format)
    found = {name: value for name in names if isinstance(value := record[name], _SCALARS)}
    if "metadata" in record and isinstance(inner := decoded(record["metadata"]), dict):
        found.update((k, v) for k, v in inner.items() if isinstance(v, _SCALARS))
    return found
