"""The format `matched`: which records have it, for whom, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from records import EXAMPLES

from raysft.data.formats import Reading, detect_format, read_record
from raysft.data.records import Refusal

MATCHED = Reading(matched=True)
PAIRS: list[tuple[dict[str, Any], list[str]]] = [
    ({"anchor": "q", "positive": "a"}, []),
    ({"anchor": "q", "positive": "a", "negative": "b"}, ["b"]),
    ({"query": "q", "positive": "a", "negative_1": "b", "negative_2": "c"}, ["b", "c"]),
    ({"query": "q", "pos": ["a"], "neg": ["b", "c", "b"]}, ["b", "c"]),
    ({"query": "q", "positive": "a", "negatives": json.dumps(["b"])}, ["b"]),
    ({"query": "q", "positive": "a", "negatives": ["b", "b ", "c"]}, ["b ", "c"]),  # one text
    ({"sentence1": "q", "sentence2": "a"}, []),
    ({"question": "q", "answer": "a"}, []),
    ({"query": "q", "document": "a", "passage_id": 7}, []),
    ({"query": "q", "passage": "a", "response": "", "label": None}, []),
]
OTHERS: list[tuple[dict[str, Any], str]] = [
    ({"query": "q", "response": "r", "positive": "a"}, "completion"),
    ({"question": "q", "answers": ["r"], "positive": "a"}, "completion"),
    ({"text": "t", "positive": "a", "anchor": "q"}, "text"),
]
"""Records that are others' to whoever does not look for texts that match."""


@pytest.mark.parametrize(("record", "negatives"), PAIRS)
def test_a_text_and_one_that_matches_it(record: dict[str, Any], negatives: list[str]) -> None:
    found = read_record(record, MATCHED, id=1, source="f")
    assert not isinstance(found, Refusal), found
    assert [(m.role, m.content) for m in found[0].messages] == [("user", "q"), ("assistant", "a")]
    told = [(candidate.messages[0].content, candidate.score) for candidate in found[0].candidates]
    assert told == ([("a", 1.0), *((text, 0.0) for text in negatives)] if negatives else [])


def test_records_of_other_formats_stay_theirs() -> None:
    for name, record in EXAMPLES.items():
        assert detect_format(record) == name
    for name in EXAMPLES.keys() - {"critique"}:
        assert detect_format(EXAMPLES[name], matched=True) == name
    for record, name in OTHERS:
        assert detect_format(record) == name
        assert detect_format(record, matched=True) == "matched"
    assert isinstance(detect_format({"question": "q", "answer": "a"}), Refusal)
    assert detect_format({"sentence1": "a", "sentence2": "b", "label": 0}, matched=True) == "labelled"
    assert isinstance(detect_format({"positive": "a"}, matched=True), Refusal)
    assert isinstance(detect_format({"anchor": "a", "sentence2": "b"}, matched=True), Refusal)


@pytest.mark.parametrize(
    ("record", "reading", "reason"),
    [
        ({"anchor": "q", "positive": "a"}, Reading(), "matched_texts"),
        ({"anchor": "q", "positive": "a", "label": 0}, MATCHED, "labelled_texts"),
        ({"sentence1": "q", "sentence2": "a", "score": 0.3}, MATCHED, "labelled_texts"),
        ({"query": "q", "pos": ["a", "b"], "neg": []}, MATCHED, "several_texts"),
        ({"query": "q", "pos": [3]}, MATCHED, "wrong_type"),
        ({"anchor": "q", "positive": "a", "instruction": "r"}, MATCHED, "unread:instruction"),
        ({"anchor": "q"}, Reading(format="matched", matched=True), "missing_column"),
        ({"anchor": "q", "positive": "a", "label": 1}, Reading(matched=True, ignored=frozenset(["label"])), ""),
    ],
)
def test_what_is_refused(record: dict[str, Any], reading: Reading, reason: str) -> None:
    found = read_record(record, reading, id=1, source="f")
    assert (found.reason if isinstance(found, Refusal) else "") == reason
