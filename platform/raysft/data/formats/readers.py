"""One reader for each record format: a record -> its messages, candidates and label. Pure.

Owns what each format's columns mean. A reader asks the account for the columns that it reads, so that what is left
can be told. Which format a record has is detect.py; whether what was read can be used is data/formats/__init__.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from raysft.data.formats.answers import RecordContent, answered, read_answer
from raysft.data.formats.asked import ask, question_text, read_prompt, require, with_system
from raysft.data.formats.compared import read_preference, read_ranking
from raysft.data.formats.fields import ANSWERS, JUDGED, PROMPTS, RESPONSES, TURNS, WANTED
from raysft.data.formats.labelled import read_labelled
from raysft.data.formats.matching import read_matched
from raysft.data.formats.tested import read_tested
from raysft.data.formats.turns import read_messages
from raysft.data.formats.unread import KeyLedger
from raysft.data.formats.values import RefusedError, decoded, is_empty, read_text, short_value
from raysft.data.records import Message, Note

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
    require(account, _INSTRUCTION_OUTPUT, "alpaca")
    return answered(ask(account, "instruction"), account, "output")


def _unified(account: KeyLedger) -> RecordContent:
    metadata = decoded(account.get("metadata"))
    if not is_empty(metadata) and not isinstance(metadata, dict):
        raise RefusedError("wrong_type", f"`metadata` must be an object, got {short_value(metadata)}")
    return _alpaca(account)


def _turns(account: KeyLedger) -> RecordContent:
    column = account.first(TURNS)
    if column is None:
        require(account, {"|".join(TURNS)}, "messages")
    column = column or "messages"
    wanted = _wanted(account)
    messages = with_system(account, read_messages(account.get(column), column, account))
    return RecordContent(messages, wanted=wanted)


def _completion(account: KeyLedger) -> RecordContent:
    """TRL's and OpenAI's prompt and completion, each a text or turns. Only the completion is trained."""
    require(account, {"|".join(PROMPTS), "|".join(ANSWERS)}, "completion")
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
    """Whether the answer is a good one: a label that is a bool says it, and where answers are judged 1 and 0, too.

    Unpaired preference as TRL, ms-swift and LLaMA-Factory write it. None: there is no such label.
    """
    column = account.first(WANTED)
    if column is None:
        return None
    label, judged = decoded(account.record[column]), account.reading.judged
    if isinstance(label, str):  # as pandas writes it into a CSV
        label = {"true": True, "false": False}.get(label.strip().lower(), label)
    if not isinstance(label, bool) and not (judged and label in (0, 1)):
        return None
    account.used.add(column)
    if not label and not judged:
        raise RefusedError("unwanted_answer", f"`{column}: false` says that this answer is not wanted")
    return bool(label)


def _critique(account: KeyLedger) -> RecordContent:
    require(account, {"question|instruction", "|".join(JUDGED), "critique"}, "critique")
    column = account.first(JUDGED) or JUDGED[0]
    question = question_text(account, account.first(("question", "instruction")) or "question")
    text = f"{_CRITIQUE}Question:\n{question}\n\nSolution:\n{read_text(account.get(column), column)}"
    answer = Message("assistant", read_text(account.get("critique"), "critique"))
    return RecordContent(with_system(account, [Message("user", text), answer]))


def _text(account: KeyLedger) -> RecordContent:
    require(account, {"text|content"}, "text")
    column = account.first(("text", "content")) or "text"
    text = read_text(account.get(column), column)
    speaker = next((mark for mark in _SPEAKERS if mark in text), None)
    if speaker is not None:
        said = (
            f"a plain text holds a talk ({speaker}): all of it is trained, the questions too, but not as `messages`"
        )
        account.notes.append(Note("guess", said))
    return RecordContent([Message("text", text)])


READERS: dict[str, Callable[[KeyLedger], RecordContent]] = {
    "alpaca": _alpaca,
    "unified": _unified,
    "sharegpt": _turns,
    "messages": _turns,
    "completion": _completion,
    "preference": read_preference,
    "ranking": read_ranking,
    "critique": _critique,
    "labelled": read_labelled,
    "tested": read_tested,
    "matched": read_matched,
    "text": _text,
}
