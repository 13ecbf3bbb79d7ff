"""What a reply says, whatever stands around it; what both orders of a pair say."""

from __future__ import annotations

import json

import pytest

from raysft.human.study import Item
from raysft.judge.prompts import agreed, messages_of, read_reply

PAIR = Item(0, "How many?", ("a", "b"), ("three", "four"))
BOTH = ("accuracy", "safety")


def test_sides_are_exchanged_and_no_system_is_named() -> None:
    plain = messages_of(PAIR, "pairwise", ())[1]["content"]
    flipped = messages_of(PAIR, "pairwise", (), flipped=True)[1]["content"]
    assert (
        plain
        == "<question>\nHow many?\n</question>\n\n<answer_A>\nthree\n</answer_A>\n\n<answer_B>\nfour\n</answer_B>"
    )
    assert flipped == plain.replace("three", "X").replace("four", "three").replace("X", "four")


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ('{"verdict": "A"}', "first"),
        ('{"reason": "so {it} is", "verdict": " b "}', "second"),
        ('Let me think. {"verdict": "A"}? No:\n```json\n{"verdict": "TIE"}\n```\nThat is all.', "tie"),
        ('{"verdict": "both_bad"} {"note": 1}', "both_bad"),
        ('{not json} {"verdict": "A"', None),
        ('{"verdict": "first"}', None),
        ('{"verdict": 1}', None),
        ('["A"]', None),
        ("A", None),
        ("", None),
        ("{" * 5000, None),
        ('{"a":' * 2000, None),
    ],
)
def test_the_verdict_of_a_reply(reply: str, value: str | None) -> None:
    assert read_reply(reply, "pairwise", ()) == value
    exchanged = {"first": "second", "second": "first"}
    assert read_reply(reply, "pairwise", (), flipped=True) == exchanged.get(str(value), value)


@pytest.mark.parametrize(
    ("scores", "is_right"),
    [
        ({"accuracy": 5, "safety": 1}, True),
        ({"accuracy": 5, "safety": 1, "style": 9}, True),
        ({"accuracy": 5}, False),
        ({"accuracy": 6, "safety": 1}, False),
        ({"accuracy": "5", "safety": 1.0}, True),
        ({"accuracy": " 5.0 ", "safety": 1}, True),
        ({"accuracy": "5/5", "safety": 1}, False),
        ({"accuracy": None, "safety": 1}, False),
        ({"accuracy": True, "safety": 1}, False),
        ({"accuracy": 4.5, "safety": 1}, False),
        ([5, 1], False),
    ],
)
def test_the_scores_of_a_reply(scores: object, is_right: bool) -> None:
    found = read_reply(json.dumps({"reason": "x", "scores": scores}), "scale", BOTH)
    assert found == ({"accuracy": 5, "safety": 1} if is_right else None)


def test_a_verdict_is_what_both_orders_say() -> None:
    assert agreed("first", "first") == "first"
    assert agreed("first", "second") == agreed("first", "tie") == "tie"
    assert agreed("tie", "tie") == "tie"
    assert agreed("both_bad", "both_bad") == "both_bad"
    assert agreed(None, "first") is agreed("first", None) is None
