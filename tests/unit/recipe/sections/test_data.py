"""`data:`: sources however they are written, and values that no source or mixture can have."""

from __future__ import annotations

from typing import Any

import pytest
from sections import read, refused

from raysft.recipe.sections.data import DataSection


def data(**fields: Any) -> DataSection:
    return read(data={"train": "a.jsonl", **fields}).data


@pytest.mark.parametrize(
    ("train", "paths"),
    [
        ("a.jsonl", [("a.jsonl",)]),
        (["a.jsonl", "b"], [("a.jsonl",), ("b",)]),
        ({"path": "a.jsonl"}, [("a.jsonl",)]),
        ({"path": ["a", "b"], "name": "x"}, [("a", "b")]),
        (["a", {"path": "b", "weight": 2.0}], [("a",), ("b",)]),
    ],
)
def test_one_source_or_several_with_or_without_fields(train: Any, paths: list[tuple[str, ...]]) -> None:
    found = data(train=train)
    assert [source.path for source in found.sources] == paths
    assert data(train=[source.model_dump() for source in found.sources]).sources == found.sources


def test_a_plain_string_has_what_a_source_has_by_default() -> None:
    (plain,) = data(train="a").sources
    assert (plain.name, plain.format, plain.columns, plain.weight, plain.epochs) == (None, None, None, None, 1.0)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"train": []}, ("data.train", "at least one")),
        ({"train": {"path": []}}, ("path", "at least one")),
        ({"train": {"paths": "a"}}, ("path",)),
        ({"train": {"path": "a", "weight": 0}}, ("weight", "more than 0")),
        ({"train": {"path": "a", "epochs": 0}}, ("epochs", "more than 0")),
        ({"train": {"path": "a", "format": "alpacca"}}, ("'alpacca'", "alpaca")),
        ({"format": "openai"}, ("'openai'", "messages")),
        ({"eval_fraction": 1.0}, ("data.eval_fraction", "less than 1")),
        ({"max_tokens": 7}, ("data.max_tokens", "8 or more")),
        ({"mixture": {"temperature": 0.5}}, ("data.mixture.temperature", "1 or more")),
        ({"mixture": {"descend": True}}, ("did you mean data.mixture.descending?",)),
        ({"over_long": "cut"}, ("data.over_long", "truncate")),
        ({"rules": [{"rule": "lenght"}]}, ("'lenght'", "length")),
        ({"columns": {"instruction": 5}}, ("data.columns", "5")),
    ],
)
def test_what_is_refused(fields: dict[str, Any], words: tuple[str, ...]) -> None:
    told = refused(data={"train": "a.jsonl", **fields})
    assert all(word in told for word in words), told
