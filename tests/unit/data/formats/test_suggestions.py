"""Mappings that are suggested: each one that is makes the record readable."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from raysft.data.formats import Reading, read_record
from raysft.data.formats.suggestions import suggested_mapping
from raysft.data.records import Refusal

LOG, ASK = {"speaker": "human", "text": "a"}, {"role": "user", "content": "a"}
JK = {"chosen": "response_j", "rejected": "response_k"}
U, A = {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}


@pytest.mark.parametrize(
    ("record", "mapping"),
    [
        ({"problem": "1+1?", "solution": "2", "level": "5"}, {"instruction": "problem", "output": "solution"}),
        ({"inputs": "a", "targets": "b"}, {"instruction": "inputs", "output": "targets"}),
        ({"article": "long", "highlights": "short", "id": "x"}, {"instruction": "article", "output": "highlights"}),
        ({"question": "q", "answer": "a"}, {"instruction": "question", "output": "answer"}),
        ({"Question": "q", "Answer": "a"}, {"instruction": "Question", "output": "Answer"}),
        ({"id": 1, "items": [U, A]}, {"messages": "items"}),
        ({"log": [LOG, {**LOG, "speaker": "bot"}]}, {"messages": "log", "role": "speaker", "content": "text"}),
        ({"input": [ASK], "output": "b"}, {"prompt": "input", "completion": "output"}),
        ({"question": "q", "response_j": "a", "response_k": "b"}, {"prompt": "question", **JK}),
        ({"context_messages": [ASK], "chosen": "b", "rejected": "c"}, {"prompt": "context_messages"}),
        ({"review": "fine", "label": 1, "review_id": "x"}, {"text": "review"}),
    ],
)  # fmt: skip
def test_what_is_suggested_can_be_read(record: dict[str, Any], mapping: dict[str, str]) -> None:
    refusal = read_record(record, Reading(), id=1, source="f")
    assert isinstance(refusal, Refusal)
    told = re.search(r"perhaps data\.columns: (\{.*?\})", refusal.detail)
    assert told, refusal.detail
    assert yaml.safe_load(told[1]) == mapping
    found = read_record(record, Reading(columns=mapping), id=1, source="f")
    assert not isinstance(found, Refusal), found


@pytest.mark.parametrize(
    "record",
    [
        {"x": 1, "y": "b"},
        {"problem": "1+1?"},
        {"problem": "", "solution": "2"},
        {"a": [U, A], "b": [U, A]},
        {"prompt": [{"role": "user", "content": "a"}]},
        {"title": "a", "review": "b", "label": 1},
        {"turns": '[{"a": 1, "a": 2}]'},
        {"items": [{"from": "human"}, {"from": "gpt"}]},
        {1: "a", "items": [1, 2]},
    ],
)
def test_nothing_is_suggested_where_nothing_is_likely(record: dict[Any, Any]) -> None:
    assert suggested_mapping(record) == ""
