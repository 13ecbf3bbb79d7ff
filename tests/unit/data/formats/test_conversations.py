"""Raw records to conversations, as a recipe's data section and a source's own columns say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from file_lists import make

from raysft.data.formats.conversations import check_source_columns, read_raw, reading_of
from raysft.data.read.sources import RawRecord, SourceFile, expand
from raysft.data.records import Refusal
from raysft.errors import DataError
from raysft.recipe.sections.data import DataSection


def section(**fields: Any) -> DataSection:
    return DataSection.model_validate({"train": ["a.jsonl"], **fields})


@pytest.fixture
def file(tmp_path) -> SourceFile:
    make(tmp_path, "a.jsonl")
    (found,) = expand([str(tmp_path / "a.jsonl")])
    return found


def test_a_file_is_read_as_its_source_and_the_section_say(file: SourceFile) -> None:
    data = section(ignore_columns=["mood"], on_unread="refuse", several_answers="all")
    own = replace(file, format="alpaca", columns={"instruction": "q", "output": "a"})
    record = {"q": "1+1", "a": ["2", "two"], "mood": "good"}
    found = read_raw(RawRecord(7, record), own, reading_of(own, data))
    assert not isinstance(found, Refusal)
    assert [[message.content for message in one.messages] for one in found] == [["1+1", "2"], ["1+1", "two"]]
    assert {(one.id, one.source) for one in found} == {(7, file.source)}
    assert [note.kind for note in found[0].notes] == ["ignored"]
    unread = read_raw(RawRecord(7, {**record, "tone": "dry"}), own, reading_of(own, data))
    assert isinstance(unread, Refusal)
    assert unread.reason == "unread_key"


def test_columns_of_the_mixture_are_read(file: SourceFile) -> None:
    record = {"instruction": "q", "output": "a", "weight": 2.0, "topic": "x", "hard": 3}
    named = section(
        mixture={"weight_column": "weight", "balance_by": "topic", "curriculum": "hard"}, order="windowed"
    )
    found = read_raw(RawRecord(1, record), file, reading_of(file, named))
    assert not isinstance(found, Refusal)
    assert found[0].notes == ()
    assert found[0].metadata == {"weight": 2.0, "topic": "x", "hard": 3}
    refused = read_raw(RawRecord(1, record), file, reading_of(file, section()))
    assert isinstance(refused, Refusal), "nobody reads `weight`, which says what is trained"


def test_a_line_that_could_not_be_read_stays_refused(file: SourceFile) -> None:
    broken = Refusal("malformed_json", "line 3")
    assert read_raw(RawRecord(1, broken), file, reading_of(file, section())) is broken


def test_columns_of_each_source_are_those_of_its_format() -> None:
    check_source_columns(section(columns={"output": "a"}, format="alpaca"))
    with pytest.raises(DataError, match="'output'"):
        check_source_columns(section(columns={"output": "a"}, format="messages"))
    own = {"path": ["b.jsonl"], "name": "b", "format": "messages"}
    with pytest.raises(DataError, match="'output'"):
        check_source_columns(section(train=["a.jsonl", own], columns={"output": "a"}, format="alpaca"))
    check_source_columns(section(train=["a.jsonl", {**own, "columns": {}}], columns={"output": "a"}, format="alpaca"))
