from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysft.data.records import Conversation, Message
from raysft.data.rules.record.quality import quality_components, quality_score

NAMES = {"length", "diversity", "symbols", "repetition", "complete", "shape", "difference"}
ANSWERS = [
    "Making crepes is easy. Mix flour, eggs and milk, then fry a thin layer on both sides until golden.",
    "The capital of France is Paris, which lies on the river Seine and has about two million inhabitants.",
    "To sort a list in Python, call sorted(items); it returns a new list and leaves the old one alone.",
    "Exercise lowers blood pressure, improves sleep, and helps people to keep a healthy weight as they grow older.",
]


def scored(answer: str, prompt: str = "Tell me about it, please.") -> float:
    return quality_score(quality_components(Conversation(1, (Message("user", prompt), Message("assistant", answer)))))


def shuffled(text: str) -> str:
    letters = list(text)
    random.Random(0).shuffle(letters)
    return "".join(letters)


def cut(text: str) -> str:
    return text[: int(len(text) * 0.7)].rstrip(".,; ")


def looping(text: str) -> str:
    words = text.split()
    return " ".join(words[:8] + words[4:8] * 10)


DAMAGES: list[Callable[[str], str]] = [shuffled, cut, looping, lambda text: "{}<>|~^" * 9 + text[:20]]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("answer", ANSWERS)
def test_damaged_answers_score_lower(answer: str, damage: Callable[[str], str]) -> None:
    assert scored(damage(answer)) < scored(answer) - 0.05


@pytest.mark.parametrize(
    ("worse", "component"),
    [
        (shuffled(ANSWERS[0]), "shape"),
        (cut(ANSWERS[0]), "complete"),
        (looping(ANSWERS[0]), "repetition"),
        (looping(ANSWERS[0]), "diversity"),
        ("Yes ,", "length"),
        ("{}<>|~^" * 20, "symbols"),
    ],
)
def test_each_component_sees_its_damage(worse: str, component: str) -> None:
    def components(answer: str) -> dict[str, float]:
        return quality_components(Conversation(1, (Message("user", "Why?"), Message("assistant", answer))))

    assert components(ANSWERS[0]).keys() == NAMES
    assert components(worse)[component] < components(ANSWERS[0])[component] - 0.2


def test_an_answer_that_repeats_the_prompt() -> None:
    assert scored(ANSWERS[0], prompt=ANSWERS[0]) < scored(ANSWERS[0]) - 0.1


@pytest.mark.parametrize(
    "answer",
    [
        "Paris",
        "#### 72",
        "```python\nprint('hello, world')\n```",
        "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\n#### 72",
        "光合作用是植物利用阳光、水和二氧化碳制造养分的过程。",
        "光合成は、植物が光を使って養分を作る仕組みです。",
        "Конечно! Вот несколько идей для ужина: суп, салат и рыба.",
        "Great idea, let us do that together tomorrow 🙂",
    ],
)
def test_good_answers_of_many_kinds_pass(answer: str) -> None:
    assert scored(answer) > 0.8


def test_nothing_to_measure() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": {}}}
    only_a_call = Conversation(1, (Message("user", "q"), Message("assistant", "", tool_calls=(call,))))
    assert quality_components(only_a_call) == {}
    assert quality_score({}) == 1
    assert scored("") < 0.3
    assert quality_components(Conversation(1, (Message("text", ANSWERS[0]),))).keys() == NAMES - {"difference"}


@settings(max_examples=100, deadline=None)
@given(st.text(), st.text())
def test_components_are_shares(prompt: str, answer: str) -> None:
    conversation = Conversation(1, (Message("user", prompt), Message("assistant", answer)))
    assert all(0 <= value <= 1 for value in quality_components(conversation).values())


@pytest.mark.shared
@pytest.mark.parametrize("damage", DAMAGES[:3])
def test_real_answers_score_above_damaged_ones(shared_data: Path, damage: Callable[[str], str]) -> None:
    """AUC: how often a real answer scores above another one that is damaged."""
    records = json.loads((shared_data / "alpaca_en_demo.json").read_text("utf-8"))
    answers = [(r["output"], r["instruction"]) for r in records if len(r["output"].split()) > 8][::6]
    real = [scored(answer, prompt) for answer, prompt in answers]
    damaged = [scored(damage(answer), prompt) for answer, prompt in answers]
    wins = sum((a > b) + (a == b) / 2 for a in real for b in damaged)
    assert wins / len(real) ** 2 > 0.9
    assert min(real) > 0.6  # the default of the rule keeps them all
