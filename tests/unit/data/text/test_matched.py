"""Texts that match as atoms: each text as its tokenizer writes it alone, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from raysft.data.formats import read_record
from raysft.data.formats.unread import Reading
from raysft.data.records import Refusal
from raysft.data.text.atoms import split_atom
from raysft.data.text.pairs import encode_answers
from raysft.data.text.tokenizer import template_for


def encoded(tokenizers: Any, record: dict[str, Any], **how: Any) -> Any:
    """(what it is, its text) of each text; or the reason of the refusal."""
    found = read_record(record, Reading(matched=True), id=1, source="")
    if isinstance(found, Refusal):
        return found.reason
    tokenizer = tokenizers["chatml"]
    settings = {"train_on": "all", "max_tokens": 100, "over_long": "drop", **how}
    (one,) = encode_answers(
        found, tokenizer, template_for("tokenizer", tokenizer, is_needed=False), "matched", **settings
    )
    if isinstance(one, Refusal):
        return one.reason
    return [(side, tokenizer.decode(part.input_ids)) for side, part in split_atom(one[0])]


@pytest.mark.parametrize(
    "record",
    [
        {"anchor": "why so", "positive": "that is why", "negative": "a cat"},
        {"prompt": "why so", "chosen": "that is why", "rejected": "a cat"},
        {"prompt": "why so", "responses": ["a cat", "that is why"], "scores": [1, 2]},
    ],
)
def test_every_text_stands_alone_with_its_end(tokenizers: Any, record: dict[str, Any]) -> None:
    end = tokenizers["chatml"].eos_token
    expected = [("query", "why so" + end), ("positive", "that is why" + end), ("negative 1", "a cat" + end)]
    assert encoded(tokenizers, record) == expected


def test_a_question_and_its_answer_are_texts_that_match(tokenizers: Any) -> None:
    for record in ({"instruction": "one", "output": "two"}, {"prompt": "one", "completion": "two"}):
        assert [side for side, _ in encoded(tokenizers, record)] == ["query", "positive"]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"anchor": "a", "positive": "a"}, "same_texts"),
        ({"anchor": "a", "positive": "b", "negative": "b"}, "same_texts"),
        ({"anchor": "a", "positive": "b", "negatives": ["c", "a"]}, "same_texts"),
        ({"anchor": "a", "positive": "a "}, "same_texts"),
        ({"anchor": "a", "positive": "b", "negatives": ["caf\u00e9", "b\n"]}, "same_texts"),
        ({"anchor": " ", "positive": "b"}, "empty_text"),
        ({"anchor": "a", "positive": "b", "negatives": ["c", " "]}, "empty_text"),
        ({"anchor": "a", "positive": "\n"}, "empty_answer"),
        ({"text": "a"}, "no_pair"),
        ({"text": "a", "label": "b"}, "labelled_texts"),
        ({"sentence1": "a", "sentence2": "b", "label": 1}, "labelled_texts"),
        ({"prompt": "a", "responses": ["b", "c"], "scores": [2, 2]}, "no_preference"),
        ({"instruction": "a", "output": "b", "system": "c"}, "no_pair"),
        ({"title": "a", "body": "b"}, "unknown_format"),
    ],
)
def test_what_is_refused(tokenizers: Any, record: dict[str, Any], reason: str) -> None:
    assert encoded(tokenizers, record) == reason


def test_the_longest_texts_are_cut_to_one_length(tokenizers: Any) -> None:
    record = {"anchor": "abc", "positive": "abc " * 40, "negatives": ["abc " * 30, "abcd"]}
    assert encoded(tokenizers, record, max_tokens=40) == "over_long"
    whole = [tokenizers["chatml"](text).input_ids for _, text in encoded(tokenizers, record, max_tokens=1000)]
    lengths = [len(ids) for ids in whole]
    parts = encoded(tokenizers, record, max_tokens=40, over_long="truncate")
    cut = [len(tokenizers["chatml"](text).input_ids) for _, text in parts]
    assert (cut[0], cut[3]) == (lengths[0], lengths[3])
    assert cut[1] == cut[2] == (40 - cut[0] - cut[3]) // 2
    assert all(text.endswith(tokenizers["chatml"].eos_token) for _, text in parts)
    assert encoded(tokenizers, record, max_tokens=4, over_long="truncate") == "over_long"
    assert np.array(cut).sum() <= 40
