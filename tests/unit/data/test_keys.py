"""Keys: equal where the rules say so, different elsewhere; signatures estimate the exact Jaccard similarity."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from raysft.data.keys import key_maker, keys_hash, shingles, signature
from raysft.data.records import Conversation, Message
from raysft.recipe.rules import Conflicts, Contamination, ExactDuplicates, Leakage, NearDuplicates, Pii

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


def test_contamination_by_benchmark_ngrams(tmp_path: Path) -> None:
    path = tmp_path / "bench.jsonl"
    question = "a train leaves the station at noon and travels sixty miles an hour until the evening falls"
    path.write_text(json.dumps({"q": question, "more": {"a": ["forty two apples"]}}) + "\n")
    rule = Contamination(rule="contamination", files=(str(path),), ngram=8)
    maker = key_maker([rule])
    talks = [
        talk("Tell me.", "First. A train leaves the STATION at noon  and travels sixty yards"),
        talk("Tell me.", "a train leaves the station at noon, and then nothing"),
        talk("forty two apples", "yes"),
    ]
    assert maker.columns(talks)["contaminated"].to_pylist() == [True, False, False]
    assert maker.columns([Conversation(1, (Message("text", "forty two apples"),))])["contaminated"].to_pylist() == [
        True
    ]
    before = keys_hash([rule])
    path.write_text('{"q": "another"}\n')
    assert keys_hash([rule]) != before
