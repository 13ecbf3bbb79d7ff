"""Texts with labels, under the names of GLUE's sets and of others."""

from __future__ import annotations

from typing import Any

import pytest

from raysft.data.formats import Reading, detect_format, read_record
from raysft.data.records import Refusal

LEARNT = Reading(labelled=True)


@pytest.mark.parametrize(
    ("record", "text"),
    [
        ({"text": "a", "label": 1}, "a"),
        ({"sentence": "a", "label": 1, "idx": 0}, "a"),
        ({"sentence1": "a", "sentence2": "b", "label": 1}, "a\nb"),
        ({"premise": "a", "hypothesis": "b", "label": 1}, "a\nb"),
        ({"question1": "a", "question2": "b", "label": 1}, "a\nb"),
        ({"sentence": "a", "question": "b", "label": 1}, "a\nb"),
        ({"text": "a", "text2": "b", "label": 1.0}, "a\nb"),
        ({"text": "a", "labels": 1}, "a"),
        ({"text": "a", "labels": [1]}, "a"),
    ],
)
def test_texts_and_their_label(record: dict[str, Any], text: str) -> None:
    assert detect_format(record) == "labelled"
    found = read_record(record, LEARNT, id=1, source="f")
    assert not isinstance(found, Refusal), found
    assert ([message.content for message in found[0].messages], found[0].label) == ([text], "1")
    assert not found[0].notes
    as_answer = read_record(record, Reading(), id=1, source="f")
    if isinstance(record.get("labels"), list):
        assert isinstance(as_answer, Refusal)
        assert "objective.kind: classify" in as_answer.detail
    else:
        assert not isinstance(as_answer, Refusal), as_answer
        assert [message.content for message in as_answer[0].messages] == [text, "1"]


@pytest.mark.parametrize("name", ["label", "labels"])
def test_several_labels_are_a_line_each_and_none_are_none(name: str) -> None:
    for labels, label in (([2, "x", 2], "2\nx"), ([], ""), ("[0, 3]", "0\n3")):
        found = read_record({"text": "a", name: labels}, LEARNT, id=1, source="f")
        assert not isinstance(found, Refusal), found
        assert found[0].label == label
