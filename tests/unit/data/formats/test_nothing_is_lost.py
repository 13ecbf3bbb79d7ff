"""Random records with random extra keys, nesting and nulls: what a record holds is kept, told, or refused by name.

Every text and number that is put into a record is unlike all others, so that it can be looked for in what comes out.
The only keys that may be passed over are those that this file calls harmless.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from itertools import count
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from raysft.data.formats import Reading, read_record
from raysft.data.formats.fields import FIELDS
from raysft.data.read.arrow_values import rows_of
from raysft.data.records import Refusal

HARMLESS = (
    "id",
    "source",
    "timestamp",
    "prompt_id",
    "num_turns",
    "score",
    "created_at",
    "metadata",
    "type",
    "scores",
)
NAMES = (
    *("mood", "思考", "notes", "foo bar", "0", "Extra", "summary", "translation"),
    *("reasoning", "my_reasoning", "thinking", "thought", "rationale", "system", "system_prompt", "developer"),
    *("tools", "functions", "tool_calls", "function_call", "name", "channel", "recipient"),
    *("train", "loss", "weight", "loss_mask", "train_detail", "completion_mask", "labels", "label", "label_text"),
    *("context", "documents", "history", "input", "answers", "answer", "response", "responses", "completion"),
    *("completions", "chosen", "rejected", "prompt", "instruction", "output", "question", "query", "text"),
    *("text2", "content", "value", "role", "from", "messages", "conversations", "conversation", "critique"),
    *("chat_template_kwargs", "enable_thinking", "refusal", "images", "arguments", "function", "human"),
)
SETTINGS = settings(max_examples=120, deadline=None)


class Maker:
    """Draws records whose texts and numbers are all different."""

    def __init__(self, data: st.DataObject) -> None:
        self._draw, self._number = data.draw, count(7_000_001)

    def pick(self, *choices: Any) -> Any:
        return self._draw(st.sampled_from(choices))

    def text(self) -> str:
        return f"say{next(self._number)}"

    def value(self, depth: int = 0) -> Any:
        kind = self.pick(
            "text", "text", "number", "null", "empty", "bool", *(("list", "object", "json") if depth < 2 else ())
        )
        if kind == "number":
            return next(self._number)
        if kind == "list":
            return [self.value(depth + 1) for _ in range(self.pick(1, 2))]
        if kind == "object":
            return self.extras({}, depth + 1)
        if kind == "json":
            return json.dumps([self.value(depth + 1)])
        return {
            "text": self.text(),
            "null": None,
            "empty": self.pick("", [], {}),
            "bool": self.pick(True, False),
        }.get(kind)

    def extras(self, found: dict[str, Any], depth: int = 0) -> dict[str, Any]:
        """The object with a few keys more."""
        for _ in range(self.pick(0, 0, 0, 1, 2)):
            found.setdefault(self.pick(*NAMES, *HARMLESS), self.value(depth))
        return found

    def call(self) -> dict[str, Any]:
        function = {"name": self.text(), "arguments": {self.text(): self.value(1)}}
        return self.extras({"id": self.text(), "type": "function", "function": self.extras(function)})

    def turn(self, role: str) -> dict[str, Any]:
        if self.pick(True, False):
            return self.extras({"from": {"user": "human", "assistant": "gpt"}.get(role, role), "value": self.text()})
        content: Any = self.text()
        if self.pick(False, False, True):
            content = [self.extras({"type": "text", "text": self.text()})]
        turn = {"role": role, "content": content}
        if role == "assistant" and self.pick(False, False, True):
            turn["tool_calls"] = [self.call()]
        return self.extras(turn)

    def turns(self, *roles: str) -> Any:
        found = [self.turn(role) for role in roles]
        shape = self.pick("list", "list", "json", "lists", "padded")
        if shape == "json":
            return json.dumps(found)
        if shape == "lists":
            names = dict.fromkeys(name for turn in found for name in turn)
            return {name: [turn.get(name) for turn in found] for name in names}
        if shape == "padded":
            return [{**dict.fromkeys(NAMES), **turn} for turn in found]
        return found

    def record(self) -> dict[str, Any]:
        text, turns = self.text, self.turns
        record: dict[str, Any] = self.pick(
            lambda: {"instruction": text(), "input": text(), "output": text()},
            lambda: {"instruction": text(), "output": [text(), text()], "history": [[text(), text()]]},
            lambda: {"messages": turns("user", "assistant")},
            lambda: {"conversations": turns("system", "user", "assistant", "user", "assistant"), "system": text()},
            lambda: {"messages": turns("assistant"), "tools": [self.extras({"name": text(), "parameters": {}})]},
            lambda: {"prompt": turns("user"), "completion": turns("assistant")},
            lambda: {"prompt": text(), "completion": text()},
            lambda: {"prompt": text(), "chosen": text(), "rejected": text()},
            lambda: {"chosen": turns("user", "assistant"), "rejected": turns("user", "assistant")},
            lambda: {"question": text(), "responses": [text(), self.extras({"text": text()})], "scores": [1, 0]},
            lambda: {"question": text(), "noisy_answer": text(), "critique": text()},
            lambda: {"text": text(), "label": text()},
            lambda: {"text": text()},
        )()
        return self.extras(record)


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """(keys on the way, text) of every text and number."""
    if isinstance(value, str) and value[:1] in ("[", "{"):
        value = json.loads(value)
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner, path)
    elif isinstance(value, str | int) and not isinstance(value, bool):
        yield path, str(value)


def lost(record: dict[str, Any], reading: Reading) -> list[tuple[tuple[str, ...], str]]:
    """What of the record is neither in its conversations, nor told, nor harmless; nothing for a refused record."""
    found = read_record(record, reading, id=3, source="s")
    if isinstance(found, Refusal):
        assert found.reason
        assert found.detail
        return []
    kept = json.dumps([{**asdict(one), "notes": (), "metadata": {}, "id": 0} for one in found], default=str)
    told = {tuple(note.name.replace("[]", "").split(".")) for one in found for note in one.notes}
    told |= {(note.name,) for one in found for note in one.notes}
    assert reading.on_unread == "warn" or not any(note.kind == "unread" for one in found for note in one.notes)
    guesses = " ".join(note.name for one in found for note in one.notes if note.kind == "guess")
    return [
        (path, text)
        for path, text in leaves(record)
        if text.startswith(("say7", "7"))
        and text not in kept
        and not set(path) & set(HARMLESS)
        and not any(path[: end + 1] in told for end in range(len(path)))
        and "first of several answers" not in guesses
    ]


@SETTINGS
@given(st.data())
def test_what_a_record_holds_is_kept_or_told_or_refused(data: st.DataObject) -> None:
    record = Maker(data).record()
    reading = Reading(
        on_unread=data.draw(st.sampled_from(("warn", "warn", "refuse"))),
        several_answers=data.draw(st.sampled_from(("refuse", "first", "all"))),
        ignored=frozenset(data.draw(st.lists(st.sampled_from(("mood", "channel", "loss", "context")), max_size=2))),
    )
    assert lost(record, reading) == [], record


@SETTINGS
@given(st.data())
def test_and_so_it_is_from_parquet(data: st.DataObject) -> None:
    records = [Maker(data).record() for _ in range(2)]
    try:
        batch = pa.RecordBatch.from_pylist([{key: value for key, value in r.items() if key} for r in records])
    except (pa.ArrowException, TypeError):
        return  # two types under one name: no such table
    for row in rows_of(batch):
        assert lost(row, Reading()) == [], row


SCALARS = (None, True, False, 0, 1, 10**20, 0.5, float("nan"), "", "a", "{}", "[1", "null", "user", "assistant")
JSON = st.recursive(
    st.sampled_from(SCALARS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from((*NAMES, "")), inner, max_size=3),
    max_leaves=12,
)
MAPPED = ("messages", "role", "content", "system", "output", "tools")


@SETTINGS
@given(
    st.dictionaries(st.sampled_from((*NAMES, "metadata", "noisy_answer", "ranks", "sentence1")), JSON, max_size=6),
    st.sampled_from(("auto", *FIELDS)),
    st.dictionaries(st.sampled_from(MAPPED), st.sampled_from(NAMES), max_size=2),
)
def test_no_record_is_a_traceback(record: dict[str, Any], format: str, columns: dict[str, str]) -> None:
    reading = Reading(format=format, columns=columns, several_answers="all")
    found = read_record(record, reading, id=3, source="s")
    assert isinstance(found, Refusal) or all(one.messages for one in found)
