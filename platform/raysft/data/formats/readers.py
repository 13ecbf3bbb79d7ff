"""One reader for each record format: a record -> its messages, candidates and label. Pure.

Owns what each format's columns mean. Which format a record has, and whether what was read can be used, is
data/formats/__init__.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from raysft.data.formats.values import (
    Content,
    Record,
    RefusedError,
    first_of,
    read_messages,
    read_number,
    read_text,
    read_turns,
    require,
    short,
    system_turn,
)
from raysft.data.records import Candidate, Message

# The wording of Critique Fine-Tuning (Wang et al. 2025, arXiv:2501.17703).
_CRITIQUE = "Please critique whether the following solution to the question is correct.\n\n"
_PROMPTS = ("prompt", "conversations", "messages", "question", "instruction")
_RESPONSES = ("responses", "candidates", "answers")
_JUDGED = ("noisy_answer", "response", "answer")

FIELDS = {
    "alpaca": ("instruction", "input", "output", "system", "history", "tools"),
    "unified": ("instruction", "input", "output", "system", "metadata"),
    "sharegpt": ("conversations", "messages", "system", "tools"),
    "messages": ("messages", "tools"),
    "preference": (*_PROMPTS, "input", "system", "tools", "chosen", "rejected"),
    "ranking": (*_PROMPTS, "input", "system", "tools", *_RESPONSES, "scores", "ranks"),
    "critique": ("question", "instruction", "input", "system", *_JUDGED, "critique"),
    "labelled": ("text", "text2", "sentence1", "sentence2", "label", "label_text", "system"),
    "text": ("text", "content"),
}
"""The columns that each format reads; the other scalar columns describe the record."""


def _alpaca(record: Record) -> Content:
    require(record, ("instruction", "output"), "alpaca")
    messages = system_turn(record)
    history = record.get("history") or ()
    if not isinstance(history, list | tuple):
        raise RefusedError(
            "wrong_type", f"`history` must be a list of [question, answer] pairs, got {short(history)}"
        )
    for pair in history:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise RefusedError("wrong_type", f"`history` must be [question, answer] pairs, got {short(pair)}")
        messages.append(Message("user", read_text(pair[0], "history")))
        messages.append(Message("assistant", read_text(pair[1], "history")))
    messages.append(Message("user", _question(record, "instruction")))
    messages.append(Message("assistant", read_text(record["output"], "output")))
    return Content(messages)


def _unified(record: Record) -> Content:
    metadata = record.get("metadata")
    if metadata is not None and not isinstance(metadata, dict):
        raise RefusedError("wrong_type", f"`metadata` must be an object, got {short(metadata)}")
    return _alpaca(record)


def _sharegpt(record: Record) -> Content:
    require(record, ("conversations|messages",), "sharegpt")
    key = "conversations" if "conversations" in record else "messages"
    return Content(system_turn(record) + read_messages(record[key], key))


def _messages(record: Record) -> Content:
    require(record, ("messages",), "messages")
    return Content(read_messages(record["messages"], "messages"))


def _preference(record: Record) -> Content:
    """`chosen` and `rejected` are answers, or whole conversations that part at some turn."""
    require(record, ("chosen", "rejected"), "preference")
    chosen, rejected = (_answer(record[name], name) for name in ("chosen", "rejected"))
    if _is_whole(chosen) and _is_whole(rejected):
        shared = 0
        while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
            shared += 1
        while shared and not (chosen[shared].role == rejected[shared].role == "assistant"):
            shared -= 1
        if not shared:
            raise RefusedError("role_order", "chosen and rejected part before the first answer")
        system = [] if chosen[0].role == "system" else system_turn(record)
        prompt, chosen, rejected = system + chosen[:shared], chosen[shared:], rejected[shared:]
    else:
        prompt = _prompt(record, "preference")
    candidates = (Candidate(tuple(chosen), 1.0), Candidate(tuple(rejected), 0.0))
    return Content(prompt + chosen, candidates)


def _ranking(record: Record) -> Content:
    column = first_of(record, _RESPONSES)
    if column is None:
        require(record, ("|".join(_RESPONSES),), "ranking")
        raise RefusedError("wrong_type", f"`{'|'.join(_RESPONSES)}` is null")
    responses = record[column]
    if not isinstance(responses, list) or not responses:
        raise RefusedError("wrong_type", f"`{column}` must be a list of answers, got {short(responses)}")
    scores = _scores(record, responses, column)
    answers = [_answer(response, column) for response in responses]
    candidates = tuple(Candidate(tuple(a), score) for a, score in zip(answers, scores, strict=True))
    best = max(range(len(scores)), key=scores.__getitem__)  # the first of equals
    return Content(_prompt(record, "ranking") + answers[best], candidates)


def _scores(record: Record, responses: list[Any], column: str) -> list[float]:
    """Higher is better; ranks count from the best on."""
    for key, sign in (("scores", 1.0), ("ranks", -1.0)):
        if record.get(key) is not None:
            values = record[key]
            if not isinstance(values, list) or len(values) != len(responses):
                raise RefusedError("wrong_type", f"`{key}` must be a list as long as `{column}`, got {short(values)}")
            return [sign * read_number(value, key) for value in values]
        own = key[:-1]
        if all(isinstance(response, dict) and response.get(own) is not None for response in responses):
            return [sign * read_number(response[own], own) for response in responses]
    raise RefusedError("missing_column", f"ranking needs scores or ranks, or a score or rank in each of `{column}`")


def _critique(record: Record) -> Content:
    require(record, ("question|instruction", "|".join(_JUDGED), "critique"), "critique")
    column = first_of(record, _JUDGED) or _JUDGED[0]
    question = _question(record, "question" if "question" in record else "instruction")
    text = f"{_CRITIQUE}Question:\n{question}\n\nSolution:\n{read_text(record.get(column), column)}"
    answer = Message("assistant", read_text(record["critique"], "critique"))
    return Content([*system_turn(record), Message("user", text), answer])


def _labelled(record: Record) -> Content:
    require(record, ("text|sentence1", "label"), "labelled")
    first = "text" if "text" in record else "sentence1"
    second = "text2" if first == "text" else "sentence2"
    texts = [read_text(record[first], first)]
    if record.get(second) is not None:
        texts.append(read_text(record[second], second))
    label = _label(record)
    return Content(
        [*system_turn(record), Message("user", "\n".join(texts)), Message("assistant", label)], label=label
    )


def _label(record: Record) -> str:
    """Its name where `label_text` gives one, else the label as text."""
    if isinstance(name := record.get("label_text"), str) and name.strip():
        return name
    label = record["label"]
    if isinstance(label, str):
        return label
    if isinstance(label, float) and label.is_integer():  # a whole number in a column that has gaps
        label = int(label)
    if isinstance(label, bool | int):
        return str(label).lower()
    raise RefusedError("wrong_type", f"`label` must be text or a whole number, got {short(label)}")


def _text(record: Record) -> Content:
    require(record, ("text|content",), "text")
    column = "text" if "text" in record else "content"
    return Content([Message("text", read_text(record[column], column))])


def _question(record: Record, column: str) -> str:
    question = read_text(record[column], column)
    extra = read_text(record.get("input"), "input", optional=True)
    return f"{question}\n{extra}" if extra else question


def _prompt(record: Record, format: str) -> list[Message]:
    """What all answers answer: text or turns."""
    column = first_of(record, _PROMPTS)
    if column is None:
        raise RefusedError("missing_column", f"{format} needs {'|'.join(_PROMPTS)}")
    value = record[column]
    if isinstance(value, list):
        messages = read_messages(value, column)
        return messages if messages and messages[0].role == "system" else system_turn(record) + messages
    return [*system_turn(record), Message("user", _question(record, column))]


def _answer(value: Any, column: str) -> list[Message]:
    """An answer as text, as one message (ShareGPT's or OpenAI's), as {text|content}, or as a list of messages."""
    if isinstance(value, list):
        return read_messages(read_turns(value, column), column)
    if isinstance(value, dict):
        if "from" in value or "role" in value:
            return read_messages([value], column)
        value = value.get("text", value.get("content"))
    return [Message("assistant", read_text(value, column))]


def _is_whole(messages: list[Message]) -> bool:
    return bool(messages) and messages[0].role in ("system", "user")


READERS: dict[str, Callable[[Record], Content]] = {
    "alpaca": _alpaca,
    "unified": _unified,
    "sharegpt": _sharegpt,
    "messages": _messages,
    "preference": _preference,
    "ranking": _ranking,
    "critique": _critique,
    "labelled": _labelled,
    "text": _text,
}
