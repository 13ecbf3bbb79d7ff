"""Keys: equal where the rules say so, different elsewhere; signatures estimate the exact Jaccard similarity."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from raysft.data.records import Conversation, Message
from raysft.data.rules.keys import key_maker, shingles, signature
from raysft.recipe.cleaning import Conflicts, ExactDuplicates, Leakage, NearDuplicates, Pii

NEAR = NearDuplicates(rule="near_duplicates")


def talk(question: str, answer: str) -> Conversation:
    return Conversation(1, (Message("user", question), Message("assistant", answer)))


def test_only_the_keys_that_rules_compare_are_made() -> None:
    assert key_maker([Pii(rule="pii")]).schema == []
    names = [field.name for field in key_maker([Leakage(rule="leakage"), NEAR]).schema]
    assert names == ["prompt_key", "answer_key", "signature"]
    everything = key_maker([ExactDuplicates(rule="exact_duplicates"), Conflicts(rule="conflicts")])
    columns = everything.columns([talk("a", "b")])
    assert list(columns) == ["exact", "prompt_key", "answer_key"]
    assert all(column.type == field.type for column, field in zip(columns.values(), everything.schema, strict=True))


def test_case_and_white_space_do_not_count_and_all_else_does() -> None:
    maker = key_maker([ExactDuplicates(rule="exact_duplicates"), Conflicts(rule="conflicts")])
    talks = [talk("What  is it?", "A cat."), talk("what is\nit?", "a cat. "), talk("What is it?", "A dog.")]
    system = Conversation(1, (Message("system", "s"), *talks[0].messages))
    text = Conversation(1, (Message("text", "What is it? A cat."),))
    columns = {name: column.to_pylist() for name, column in maker.columns([*talks, system, text]).items()}
    exact, prompts, answers = columns["exact"], columns["prompt_key"], columns["answer_key"]
    assert exact[0] == exact[1]
    assert len(set(exact)) == 4
    assert prompts[0] == prompts[1] == prompts[2]
    assert len(set(prompts)) == 3
    assert answers[0] == answers[1] == answers[3] != answers[2]


@pytest.mark.parametrize("jaccard", [0.4, 0.6, 0.8, 0.9])
def test_signatures_estimate_the_jaccard_similarity(jaccard: float) -> None:
    draw = random.Random(int(jaccard * 100))
    errors = []
    for _ in range(40):
        words = [f"w{draw.random():.9f}" for _ in range(200)]
        changed = list(words)
        cut = int(200 * (1 - jaccard) / (1 + jaccard))
        changed[200 - cut :] = [f"x{draw.random():.9f}" for _ in range(cut)]
        first, second = " ".join(words), " ".join(changed)
        one, two = ({tuple(t.split()[i : i + 5]) for i in range(196)} for t in (first, second))
        exact = len(one & two) / len(one | two)
        left, right = (np.frombuffer(signature(t, NEAR), "<u4") for t in (first, second))
        assert len(left) == 128
        errors.append((left == right).mean() - exact)
    assert abs(np.mean(errors)) < 0.02
    assert np.std(errors) < 0.06


def test_shingles_of_words_and_of_characters() -> None:
    assert shingles("One two  three four five six", 5) == ["one two three four five", "two three four five six"]
    assert shingles("short text", 5) == ["short text"]
    assert shingles("我们今天去公园", 5) == ["我 们 今 天 去", "们 今 天 去 公", "今 天 去 公 园"]
    assert shingles("Say 你好吗 to Anna", 3) == ["say 你 好", "你 好 吗", "好 吗 to", "吗 to anna"]
    assert shingles("1 + 1", 5) != shingles("1 - 1", 5)


def test_tools_and_calls_are_part_of_the_keys() -> None:
    maker = key_maker([ExactDuplicates(rule="exact_duplicates"), Leakage(rule="leakage")])
    plain = talk("What is it?", "A cat.")
    with_tools = replace(plain, tools=({"type": "function", "function": {"name": "f"}},))
    calls = [
        replace(plain, messages=(plain.messages[0], Message("assistant", "", tool_calls=({"id": name},))))
        for name in ("a", "b")
    ]
    columns = {name: column.to_pylist() for name, column in maker.columns([plain, with_tools, *calls]).items()}
    assert len(set(columns["exact"])) == len({*columns["answer_key"]}) + 1 == 4
    prompts = columns["prompt_key"]
    assert prompts[0] == prompts[2] == prompts[3] != prompts[1]
