"""Answers that are trained in parts: Axolotl's `train_detail`, by characters, against the tokens' own texts."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
from chats import CHATML, tokenizer_of

from raysft.data.formats import Reading, read_record
from raysft.data.records import Conversation, Refusal
from raysft.data.text.chat import Example, encode
from raysft.data.text.tokenizer import template_for

THANKS = "I'm doing very well, thank you!"
EXAMPLE = [  # of Axolotl's documentation
    {"begin_offset": 0, "end_offset": 8, "train": False},
    {"begin_offset": 9, "end_offset": 18, "train": True},
    {"begin_offset": 19, "end_offset": 30, "train": False},
]
HOW: Any = {"train_on": "all", "max_tokens": 9999, "over_long": "drop", "stop": "accept"}


def read(
    detail: Any, text: str = THANKS, role: str = "assistant", name: str = "train_detail"
) -> Conversation | Refusal:
    turns = [{"role": "user", "content": "How are you?"}, {"role": "assistant", "content": text}]
    turns[role == "assistant"][name] = detail
    found = read_record({"conversations": turns}, Reading(), id=1, source="s")
    return found if isinstance(found, Refusal) else found[0]


def encoded(talk: Conversation | Refusal) -> tuple[Any, Example | Refusal]:
    assert isinstance(talk, Conversation), talk
    tokenizer = copy.deepcopy(tokenizer_of("qwen3, one digit"))
    tokenizer.chat_template = CHATML
    (found,) = encode([talk], tokenizer, template_for("tokenizer", tokenizer), **HOW)
    return tokenizer, found if isinstance(found, Refusal) else found[0]


def trained(talk: Conversation | Refusal) -> str:
    tokenizer, found = encoded(talk)
    assert isinstance(found, Example), found
    return tokenizer.decode(found.input_ids[found.target > 0])


def range_of(begin: int, end: int, train: bool = True) -> dict[str, Any]:
    return {"begin_offset": begin, "end_offset": end, "train": train}


def test_the_example_of_axolotls_documentation() -> None:
    assert trained(read(EXAMPLE)) == THANKS[9:19] + "<|im_end|>" == " very well<|im_end|>"
    assert trained(read(EXAMPLE, name="training_detail")) == trained(read(EXAMPLE))


def expected(tokenizer: Any, text: str, ranges: list[tuple[int, int]]) -> str:
    """Axolotl's rule, from the tokenizer's own offsets: a token with a character in a trained range."""
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    kept = [
        token
        for token, (start, end) in zip(found["input_ids"], found["offset_mapping"], strict=True)
        if any(start <= last and end > first for first, last in ranges)
    ]
    return str(tokenizer.decode(kept))


@pytest.mark.parametrize("text", [THANKS, "Zwölf Größen, 你好 und 🙂 drei", "one\n\ntwo  three"])
def test_every_range_trains_the_tokens_that_reach_into_it(text: str) -> None:
    tokenizer = encoded(read(EXAMPLE))[0]
    for begin in range(0, len(text), 3):
        for end in range(begin, len(text), 4):
            two = [(0, 1), (begin, end)] if begin > 6 else [(begin, end)]
            told = [range_of(*one) for one in two] + [range_of(0, len(text) - 1, False)]
            assert trained(read(told, text)) == expected(tokenizer, text, two) + "<|im_end|>"


def test_all_none_and_more_than_all() -> None:
    whole = trained(read(None))
    assert whole == f"{THANKS}<|im_end|>"
    assert trained(read([range_of(0, 999)])) == whole
    assert trained(read([range_of(0, 10), range_of(11, 30)])) == whole
    assert trained(read([range_of(0, 30, False)])) == "<|im_end|>"
    assert trained(read([range_of(0, 3, False), range_of(2, 9)])) == trained(read([range_of(2, 9)]))


def test_the_tokens_are_those_of_the_whole_text() -> None:
    _, parts = encoded(read(EXAMPLE))
    _, whole = encoded(read(None))
    assert isinstance(parts, Example)
    assert isinstance(whole, Example)
    assert parts.input_ids.tolist() == whole.input_ids.tolist()


@pytest.mark.parametrize(
    "detail",
    [
        *([1, 0], [{"begin_offset": 0, "end_offset": 3}], [range_of(3, 2)], [range_of(-1, 2)], "all"),
        *([{**range_of(0, 3), "weight": 2}], [range_of(0, 3, 1)], [{**range_of(0, 3), "end_offset": "3"}]),
    ],
)
def test_what_are_no_ranges_is_refused(detail: Any) -> None:
    found = read(detail)
    assert isinstance(found, Refusal)
    assert found.reason == "wrong_type"


def test_only_answers_are_trained() -> None:
    found = read([range_of(0, 3)], role="user")
    assert isinstance(found, Refusal)
    assert found.reason == "trained_prompt"
    assert trained(read([range_of(0, 3, False)], role="user")) == f"{THANKS}<|im_end|>"


def test_characters_that_count_no_more_refuse_the_record() -> None:
    talk = read(EXAMPLE)
    assert isinstance(talk, Conversation)
    changed = replace(talk.messages[1], content=THANKS.replace("I'm", "I am"))
    for other in (replace(talk, messages=(talk.messages[0], changed)), read(EXAMPLE, f" {THANKS} {THANKS}")):
        assert isinstance(other, Conversation)
        _, found = encoded(other)
        if other.messages[1] is changed:
            assert isinstance(found, Refusal)
            assert found.reason == "cannot_be_masked"
        else:
            assert isinstance(found, Example)
