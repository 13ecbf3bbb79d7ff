from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysft.data.records import Conversation, Message
from raysft.data.rules.record.augment import choose_templates, dice, expanded, noisy, variants, with_synonyms
from raysft.data.rules.record.words import Lexicon

TALK = Conversation(
    7,
    (
        Message("system", "Answer every question politely."),
        Message("user", "Which planets have several large moons, and why?"),
        Message("assistant", "Jupiter and Saturn have several large moons.", train=False),
        Message("user", "Thanks! What about Neptune?"),
        Message("assistant", "Neptune has one large moon."),
    ),
    source="s",
)
TEXT = Conversation(1, (Message("text", "Several large moons"),))


def questions(conversation: Conversation) -> list[str]:
    return [message.content for message in conversation.messages if message.role == "user"]


def without_questions(conversation: Conversation) -> Conversation:
    messages = tuple(replace(m, content="") if m.role == "user" else m for m in conversation.messages)
    return replace(conversation, messages=messages, tags=())


def test_dice_are_the_same_in_every_process() -> None:
    assert dice(1, 2, "a").random() == pytest.approx(0.65614855, abs=1e-8)  # written down once
    assert dice(1, 2).random() != dice(12).random() != dice("1", 2).random()


def test_noise_changes_single_letters_of_the_users_words() -> None:
    changed = noisy(TALK, 0.5, Random(0), at_least_one=False)
    assert without_questions(changed) == without_questions(TALK)
    pairs = [
        (old, new)
        for before, after in zip(questions(TALK), questions(changed), strict=True)
        for old, new in zip(before.split(" "), after.split(" "), strict=True)
        if old != new
    ]
    assert 2 <= len(pairs) <= 9
    for old, new in pairs:
        assert abs(len(old) - len(new)) <= 1
        assert sum(((Counter(old) - Counter(new)) + (Counter(new) - Counter(old))).values()) <= 1


def test_noise_follows_its_probability() -> None:
    words = " ".join(["letters"] * 4000)
    text = noisy(
        Conversation(1, (Message("user", words), Message("assistant", "a"))), 0.1, Random(3), at_least_one=False
    )
    changed = sum(word != "letters" for word in questions(text)[0].split(" "))
    assert 330 < changed < 470


@pytest.mark.parametrize(
    "text", ["12 + 30 = 42?", "https://example.org/path", "x_1 = foo(bar)", "🙂 🙂", "", "a b c", "नमस्ते"]
)
def test_noise_leaves_numbers_addresses_and_code_alone(text: str) -> None:
    conversation = Conversation(1, (Message("user", text), Message("assistant", "a")))
    assert noisy(conversation, 1.0, Random(0), at_least_one=True) is conversation


def test_noise_in_chinese_and_at_least_one_error() -> None:
    conversation = Conversation(1, (Message("user", "今天天气怎么样？"), Message("assistant", "很好")))
    assert questions(noisy(conversation, 1.0, Random(0), at_least_one=False)) != questions(conversation)
    for seed in range(20):
        assert noisy(TALK, 1e-9, Random(seed), at_least_one=True) != TALK
        assert noisy(TALK, 1e-9, Random(seed), at_least_one=False) is TALK


@settings(max_examples=100, deadline=None)
@given(st.text(), st.integers())
def test_noise_on_any_text(text: str, seed: int) -> None:
    conversation = Conversation(1, (Message("user", text), Message("assistant", text)))
    changed = noisy(conversation, 0.5, Random(seed), at_least_one=True)
    assert changed.messages[1].content == text
    assert abs(len(changed.messages[0].content) - len(text)) <= len(text) + 1


TABLE = {"large": ("big",), "which": ("what",), "天气": ("气候",)}
LEXICON = Lexicon({word: word for word in TABLE})


def test_synonyms_keep_case_and_answers() -> None:
    changed = with_synonyms(TALK, TABLE, LEXICON, 1.0, Random(0))
    assert questions(changed) == ["What planets have several big moons, and why?", "Thanks! What about Neptune?"]
    assert without_questions(changed) == without_questions(TALK)
    shouted = Conversation(1, (Message("user", "LARGE 今天天气 larger"), Message("assistant", "large")))
    assert questions(with_synonyms(shouted, TABLE, LEXICON, 1.0, Random(0))) == ["BIG 今天气候 larger"]
    assert with_synonyms(TEXT, TABLE, LEXICON, 1.0, Random(0)) is TEXT


def test_templates() -> None:
    assert questions(expanded(TALK, "Please: {prompt} {x}"))[0] == f"Please: {questions(TALK)[0]} {{x}}"
    assert questions(expanded(TALK, "{prompt}!"))[1] == questions(TALK)[1]
    assert without_questions(expanded(TALK, "Q: {prompt}")) == without_questions(TALK)
    assert expanded(TEXT, "Q: {prompt}") is TEXT
    assert sorted(choose_templates(("a", "b", "c"), 3, Random(1))) == ["a", "b", "c"]
    assert Counter(choose_templates(("a", "b"), 5, Random(1))).most_common(1)[0][1] == 3


def test_variants() -> None:
    def change(conversation: Conversation, copy: int) -> Conversation:
        return conversation if copy == 1 else expanded(conversation, f"{copy} {{prompt}}")

    made = variants(TALK, change, copies=3, tag="augmented:x")
    assert made[0] is TALK
    assert [questions(one)[0][:2] for one in made] == ["Wh", "0 ", "2 "]  # the copy without a change is left out
    assert [one.tags for one in made] == [(), ("augmented:x",), ("augmented:x",)]
    assert [questions(one)[0][:2] for one in variants(TALK, change, copies=0, tag="t")] == ["0 "]
    assert variants(TALK, lambda one, _: one, copies=0, tag="t") == [TALK]
