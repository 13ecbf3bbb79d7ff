"""A preferred and a rejected answer as an atom of two samples, each as it is alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from raysft.data.records import Candidate, Conversation, Message, Refusal
from raysft.data.text.atoms import split_atom
from raysft.data.text.pairs import encode_answers
from raysft.data.text.tokenizer import template_for

TALK = [
    {"role": "user", "content": "one?"},
    {"role": "assistant", "content": "uno"},
    {"role": "user", "content": "two?"},
]


def talk(*answers: tuple[str, float], prompt: Sequence[dict[str, str]] = TALK) -> Conversation:
    candidates = tuple(Candidate((Message("assistant", text),), score) for text, score in answers)
    best = max(candidates, key=lambda one: one.score).messages
    return Conversation(7, (*(Message(**turn) for turn in prompt), *best), candidates=candidates)


@pytest.fixture(scope="module")
def encoded(tokenizers: Any) -> Callable[..., Any]:
    def encode(
        conversation: Conversation, max_tokens: int = 200, train_on: Any = "all", answers: Any = "pair"
    ) -> Any:
        tokenizer = tokenizers["chatml"]
        (found,) = encode_answers(
            [conversation],
            tokenizer,
            template_for("chatml", tokenizer),
            answers,
            train_on=train_on,
            max_tokens=max_tokens,
            over_long="drop",
        )
        return found

    return encode


def trained_text(tokenizer: Any, ids: Sequence[int], target: Sequence[float]) -> str:
    return str(tokenizer.decode([i for i, weight in zip(ids, target, strict=True) if weight]))


@pytest.mark.parametrize("scores", [(1.0, 0.0), (-1.0, -2.5), (0.2, 0.1)])
@pytest.mark.parametrize("turned", [False, True])
def test_each_side_is_what_the_tokenizer_makes_of_it_alone(encoded, tokenizers, scores, turned) -> None:
    tokenizer = tokenizers["chatml"]
    answers = [("dos", scores[0]), ("zwei\n\n!", scores[1])]
    (whole,) = encoded(talk(*(answers[::-1] if turned else answers)))
    sides = split_atom(whole)
    assert [name for name, _ in sides] == ["preferred", "rejected"]
    for (_, example), answer in zip(sides, ("dos", "zwei\n\n!"), strict=True):
        text = tokenizer.apply_chat_template([*TALK, {"role": "assistant", "content": answer}], tokenize=False)
        assert tokenizer.decode(example.input_ids) == text
        assert trained_text(tokenizer, example.input_ids, example.target) == f"{answer}<|im_end|>"
        assert example.target[0] == 0


def test_of_several_answers_the_best_and_the_worst_are_compared(encoded, tokenizers) -> None:
    (whole,) = encoded(talk(("b", 0.5), ("worst", 0.1), ("best", 0.9), ("also worst", 0.1)))
    texts = [trained_text(tokenizers["chatml"], side.input_ids, side.target) for _, side in split_atom(whole)]
    assert texts == ["best<|im_end|>", "worst<|im_end|>"]


def test_a_list_has_every_answer_as_it_is_alone_with_its_score(encoded, tokenizers) -> None:
    answers = (("b", 0.5), ("worst", -2.0), ("best", 0.9), ("as good as b", 0.5))
    (whole,) = encoded(talk(*answers), answers="ranked")
    sides = split_atom(whole)
    texts = [trained_text(tokenizers["chatml"], side.input_ids, side.target) for _, side in sides]
    assert texts == [f"{text}<|im_end|>" for text in ("best", "b", "as good as b", "worst")]
    assert [name for name, _ in sides] == ["rank 1", "rank 2", "rank 2", "rank 4"]
    assert whole.values["answer_score"] == [0.9, 0.5, 0.5, -2.0]
    (pair,) = encoded(talk(("dos", 1.0), ("zwei", 0.0)), answers="ranked")
    assert [name for name, _ in split_atom(pair)] == ["preferred", "rejected"]
    refused = encoded(talk(*answers), answers="ranked", max_tokens=len(whole.input_ids) - 1)
    assert isinstance(refused, Refusal)
    assert refused.reason == "over_long"
    assert refused.detail.startswith("a list of ")


def test_answers_of_several_turns_are_trained_as_train_on_says(encoded, tokenizers) -> None:
    def tail(first: str, last: str) -> tuple[Message, ...]:
        return (Message("assistant", first), Message("user", "go on"), Message("assistant", last))

    candidates = (Candidate(tail("a", "b"), 1.0), Candidate(tail("c", "d"), 0.0))
    one = Conversation(1, (Message("user", "q"), *candidates[0].messages), candidates=candidates)
    for train_on, expected in (("all", ["a<|im_end|>b<|im_end|>", "c<|im_end|>d<|im_end|>"]), ("last", ["b", "d"])):
        (whole,) = encoded(one, train_on=train_on)
        texts = [trained_text(tokenizers["chatml"], side.input_ids, side.target) for _, side in split_atom(whole)]
        assert texts == [text.removesuffix("<|im_end|>") + "<|im_end|>" for text in expected]


@pytest.mark.parametrize(
    ("conversation", "reason", "detail"),
    [
        (talk(("a", 1.0)), "no_pair", "1 answers that are compared; expected two or more, in the format preference"),
        (Conversation(1, (Message("user", "q"), Message("assistant", "a"))), "no_pair", "no answers"),
        (Conversation(1, (Message("text", "words"),)), "no_pair", "no answers"),
        (talk(("a", 1.0), ("b", 1.0)), "no_preference", "all 2 answers have the score 1; expected different ones"),
        (talk(("a", 1.0), ("a", 0.0)), "no_preference", "are the same"),
        (talk(("a", float("nan")), ("b", 0.0)), "no_preference", "score nan"),
        (talk(("a", 1.0), (" ", 0.0)), "empty_answer", "the rejected answer: "),
        (talk(("a", 1.0), ("\ud800", 0.0)), "invalid_unicode", "the rejected answer: "),
        (talk(("a " * 60, 1.0), ("b", 0.0)), "over_long", "tokens, at most 120 together fit a row"),
        (replace(talk(("a", 1.0), ("b", 0.0)), weight=2.0), "weighted_pair", "a weight of 2"),
        (
            replace(talk(("a", 1.0), ("b", 0.0)), messages=(Message("user", "q"), Message("assistant", "other"))),
            "changed_answer",
            "a rule changed the answer",
        ),
    ],
)
def test_what_is_no_pair_is_refused_whole_with_its_reason(encoded, conversation, reason, detail) -> None:
    found = encoded(conversation, max_tokens=120)
    assert isinstance(found, Refusal)
    assert found.reason == reason
    assert detail in found.detail


def test_answers_that_the_template_writes_alike_are_no_pair(encoded) -> None:
    """They differ in who speaks, which this template leaves out."""
    sides = tuple(
        Candidate((Message("assistant", "a", name=name),), score) for name, score in (("x", 1.0), ("y", 0.0))
    )
    found = encoded(Conversation(7, (*(Message(**turn) for turn in TALK), *sides[0].messages), candidates=sides))
    assert isinstance(found, Refusal)
    assert found.detail.startswith("the template writes both answers alike")


def test_a_pair_fits_when_both_samples_do(encoded) -> None:
    (whole,) = encoded(talk(("a", 1.0), ("b", 0.0)))
    assert sum(whole.segments) == len(whole.input_ids)
    assert not isinstance(encoded(talk(("a", 1.0), ("b", 0.0)), max_tokens=sum(whole.segments)), Refusal)
    assert isinstance(encoded(talk(("a", 1.0), ("b", 0.0)), max_tokens=sum(whole.segments) - 1), Refusal)
