"""One reader for each record format: a record -> its messages, candidates and label. Pure.

Owns what each format's columns mean. A reader asks the account for the columns that it reads, so that what is left
can be told. Which format a record has is detect.py; whether what was read can be used is data/formats/__init__.py.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import replace
from typing import Any

from raysft.data.formats.answers import RecordContent, answered, read_answer
from raysft.data.formats.fields import ANSWERS, JUDGED, PROMPTS, RESPONSES, TURNS
from raysft.data.formats.matching import read_matched
from raysft.data.formats.tested import read_tested
from raysft.data.formats.turns import read_messages
from raysft.data.formats.unread import KeyLedger
from raysft.data.formats.values import (
    RefusedError,
    column_names,
    decoded,
    is_empty,
    read_list,
    read_number,
    read_text,
    short_value,
)
from raysft.data.records import Candidate, Message, Note, plain_message

# The wording of Critique Fine-Tuning (Wang et al. 2025, arXiv:2501.17703).
_SPEAKERS = (
    "<|im_start|>assistant",
    "[/INST]",
    "### Assistant:",
    "### Response:",
    "<|start_header_id|>",
    "\nAssistant:",
)
"""What a text has before an answer that somebody's template wrote into it."""
_INSTRUCTION_OUTPUT = frozenset(("instruction", "output"))
_CRITIQUE = "Please critique whether the following solution to the question is correct.\n\n"


def _alpaca(account: KeyLedger) -> RecordContent:
    _require(account, _INSTRUCTION_OUTPUT, "alpaca")
    messages: list[Message] = []
    history = account.get("history") if "history" in account.record else None
    for pair in [] if is_empty(history) else read_list(history, "history"):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise RefusedError("wrong_type", f"`history` must be [question, answer] pairs, got {short_value(pair)}")
        messages.append(Message("user", read_text(pair[0], "history")))
        messages.append(Message("assistant", read_text(pair[1], "history")))
    messages.append(plain_message("user", _question(account, "instruction")))
    return answered(_with_system(account, messages), account, "output")


def _unified(account: KeyLedger) -> RecordContent:
    metadata = decoded(account.get("metadata"))
    if not is_empty(metadata) and not isinstance(metadata, dict):
        raise RefusedError("wrong_type", f"`metadata` must be an object, got {short_value(metadata)}")
    return _alpaca(account)


def _turns(account: KeyLedger) -> RecordContent:
    column = account.first(TURNS)
    if column is None:
        _require(account, {"|".join(TURNS)}, "messages")
    column = column or "messages"
    wanted = _wanted(account)
    messages = _with_system(account, read_messages(account.get(column), column, account))
    return RecordContent(messages, wanted=wanted)


def _completion(account: KeyLedger) -> RecordContent:
    """TRL's and OpenAI's prompt and completion, each a text or turns. Only the completion is trained."""
    _require(account, {"|".join(PROMPTS), "|".join(ANSWERS)}, "completion")
    prompt = [replace(m, train=False) if m.role == "assistant" else m for m in read_prompt(account, "completion")]
    wanted = _wanted(account)
    column = account.first(ANSWERS) or ANSWERS[0]
    value = account.record.get(column)
    turns = decoded(value) if column == "completion" else value
    is_turns = isinstance(turns, dict) or (isinstance(turns, list) and turns and isinstance(turns[0], dict))
    if is_turns and column not in RESPONSES:
        account.used.add(column)
        return RecordContent(prompt + read_answer(turns, column, account), wanted=wanted)
    return answered(prompt, account, column)._replace(wanted=wanted)


def _wanted(account: KeyLedger) -> bool | None:
    """Unpaired preference (TRL, ms-swift): a label that is a bool says whether the answer is a good one. Where
    answers are judged, 1 and 0 say it, too. None: there is no such label."""
    if "label" not in account.record:
        return None
    label, judged = decoded(account.record["label"]), account.reading.judged
    if isinstance(label, str):  # as pandas writes it into a CSV
        label = {"true": True, "false": False}.get(label.strip().lower(), label)
    if not isinstance(label, bool) and not (judged and label in (0, 1)):
        return None
    account.used.add("label")
    if not label and not judged:
        raise RefusedError("unwanted_answer", "`label: false` says that this answer is not wanted")
    return bool(label)


def _preference(account: KeyLedger) -> RecordContent:
    """`chosen` and `rejected` are answers, or whole conversations that part at some turn."""
    _require(account, {"chosen", "rejected"}, "preference")
    chosen, rejected = (read_answer(account.get(name), name, account) for name in ("chosen", "rejected"))
    if _is_whole(chosen) and _is_whole(rejected):
        shared = 0
        while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
            shared += 1
        while shared and not (chosen[shared].role == rejected[shared].role == "assistant"):
            shared -= 1
        if not shared:
            raise RefusedError("role_order", "chosen and rejected part before the first answer")
        prompt, chosen, rejected = _with_system(account, chosen[:shared]), chosen[shared:], rejected[shared:]
    else:
        prompt = read_prompt(account, "preference")
        _check_repeated(prompt, chosen, rejected)
    candidates = (Candidate(tuple(chosen), 1.0), Candidate(tuple(rejected), 0.0))
    return RecordContent(prompt + chosen, candidates)


def _check_repeated(prompt: list[Message], *answers: list[Message]) -> None:
    """Some files write the prompt in `chosen` and `rejected` as well: it would be trained as an answer."""
    asked = prompt[-1].content.strip() if prompt else ""
    if asked and all(answer and answer[0].content.strip().startswith(asked) for answer in answers):
        raise RefusedError(
            "repeated_prompt",
            f"chosen and rejected both begin with the prompt {short_value(asked)}; "
            "leave it out of them, or write turns",
        )


def _ranking(account: KeyLedger) -> RecordContent:
    column = account.first(RESPONSES)
    if column is None:
        _require(account, {"|".join(RESPONSES)}, "ranking")
        raise RefusedError("wrong_type", f"`{'|'.join(RESPONSES)}` is null")
    responses = read_list(account.get(column), column)
    if not responses:
        raise RefusedError("wrong_type", f"`{column}` must be a list of answers, got {short_value(responses)}")
    scores = _scores(account, responses, column)
    answers = [read_answer(response, column, account) for response in responses]
    candidates = tuple(Candidate(tuple(a), score) for a, score in zip(answers, scores, strict=True))
    best = max(range(len(scores)), key=scores.__getitem__)  # the first of equals
    return RecordContent(read_prompt(account, "ranking") + answers[best], candidates)


def _scores(account: KeyLedger, responses: list[Any], column: str) -> list[float]:
    """Higher is better; ranks count from the best on."""
    for key, sign in (("scores", 1.0), ("ranks", -1.0)):
        if not is_empty(account.record.get(key)):
            values = read_list(account.get(key), key)
            if len(values) != len(responses):
                raise RefusedError(
                    "wrong_type", f"`{key}` must be a list as long as `{column}`, got {short_value(values)}"
                )
            return [sign * read_number(value, key) for value in values]
        own = key[:-1]
        if all(isinstance(response, dict) and response.get(own) is not None for response in responses):
            return [sign * read_number(response[own], own) for response in responses]
    raise RefusedError("missing_column", f"ranking needs scores or ranks, or a score or rank in each of `{column}`")


def _critique(account: KeyLedger) -> RecordContent:
    _require(account, {"question|instruction", "|".join(JUDGED), "critique"}, "critique")
    column = account.first(JUDGED) or JUDGED[0]
    question = _question(account, account.first(("question", "instruction")) or "question")
    text = f"{_CRITIQUE}Question:\n{question}\n\nSolution:\n{read_text(account.get(column), column)}"
    answer = Message("assistant", read_text(account.get("critique"), "critique"))
    return RecordContent(_with_system(account, [Message("user", text), answer]))


def _labelled(account: KeyLedger) -> RecordContent:
    _require(account, {"text|sentence1", "label"}, "labelled")
    first = account.first(("text", "sentence1")) or "text"
    second = "text2" if first == "text" else "sentence2"
    texts = [read_text(account.get(first), first)]
    if account.record.get(second) is not None:
        texts.append(read_text(account.get(second), second))
    if account.reading.labelled:
        return RecordContent([Message("text", "\n".join(texts))], label=_labels(account))
    label = _label(account)
    messages = [Message("user", "\n".join(texts)), Message("assistant", label)]
    return RecordContent(_with_system(account, messages), label=label)


def _labels(account: KeyLedger) -> str:
    """Each of its labels in a line."""
    labels = decoded(account.record["label"])
    if not isinstance(labels, list):
        return _label(account)
    account.used.add("label")
    return "\n".join(dict.fromkeys(_label_text(label) for label in labels))


def _label(account: KeyLedger) -> str:
    """Its name where `label_text` gives one, else the label as text."""
    label = account.get("label")
    if isinstance(name := account.record.get("label_text"), str) and name.strip():
        if isinstance(label, str):  # not the number that has this name
            account.used.discard("label")
        return str(account.get("label_text"))
    return _label_text(label)


def _label_text(label: Any) -> str:
    if isinstance(label, str):
        return label
    if isinstance(label, float) and label.is_integer():  # a whole number in a column that has gaps
        label = int(label)
    if isinstance(label, bool | int):
        return str(label).lower()
    raise RefusedError("wrong_type", f"`label` must be text or a whole number, got {short_value(label)}")


def _text(account: KeyLedger) -> RecordContent:
    _require(account, {"text|content"}, "text")
    column = account.first(("text", "content")) or "text"
    text = read_text(account.get(column), column)
    speaker = next((mark for mark in _SPEAKERS if mark in text), None)
    if speaker is not None:
        said = (
            f"a plain text holds a talk ({speaker}): all of it is trained, the questions too, but not as `messages`"
        )
        account.notes.append(Note("guess", said))
    return RecordContent([Message("text", text)])


def _require(account: KeyLedger, names: Set[str], format: str) -> None:
    """Refuse a record without one of these columns; `a|b` needs one of the two."""
    record = account.record
    if record.keys() >= names:
        return
    missing = sorted(name for name in names if name not in record)
    missing = [name for name in missing if not any(part in record for part in name.split("|"))]
    if missing:
        raise RefusedError(
            "missing_column", f"{format} needs {', '.join(missing)}; columns seen: {column_names(record)}"
        )


def _with_system(account: KeyLedger, messages: list[Message]) -> list[Message]:
    """The messages behind the `system` column's turn, where it says something that they do not begin with."""
    if "system" not in account.record:
        return messages
    system = read_text(account.get("system"), "system", optional=True)
    if not system:
        return messages
    if messages and messages[0].role == "system":
        if messages[0].content.strip() != system.strip():
            raise RefusedError(
                "two_system_turns",
                f"`system` is {short_value(system)}, and the turns begin with {short_value(messages[0].content)}",
            )
        return messages
    return [Message("system", system), *messages]


def _question(account: KeyLedger, column: str) -> str:
    question = read_text(account.get(column), column)
    extra = read_text(account.get("input"), "input", optional=True)
    return f"{question}\n{extra}" if extra else question


def read_prompt(account: KeyLedger, format: str) -> list[Message]:
    """What all answers answer: text or turns. Raises RefusedError."""
    column = account.first(PROMPTS)
    if column is None:
        raise RefusedError("missing_column", f"{format} needs {'|'.join(PROMPTS)}")
    value = account.record[column]
    turns = decoded(value) if column in ("prompt", *TURNS) else value
    if isinstance(turns, list | dict):
        account.used.add(column)
        return _with_system(account, read_messages(turns, column, account))
    return _with_system(account, [Message("user", _question(account, column))])


def _is_whole(messages: list[Message]) -> bool:
    return bool(messages) and messages[0].role in ("system", "user")


READERS: dict[str, Callable[[KeyLedger], RecordContent]] = {
    "alpaca": _alpaca,
    "unified": _unified,
    "sharegpt": _turns,
    "messages": _turns,
    "completion": _completion,
    "preference": _preference,
    "ranking": _ranking,
    "critique": _critique,
    "labelled": _labelled,
    "tested": read_tested,
    "matched": read_matched,
    "text": _text,
}
