"""Which of several answers are compared, and which conversation has none to compare."""

from __future__ import annotations

import pytest

from raysft.data.records import Candidate, Conversation, Message, Refusal, preference, ranking

ASKED = (Message("user", "q"),)


def asked(*answers: tuple[str, float]) -> Conversation:
    candidates = tuple(Candidate((Message("assistant", text),), score) for text, score in answers)
    return Conversation(1, ASKED, candidates=candidates)


@pytest.mark.parametrize(
    ("answers", "best", "worst"),
    [
        ([("a", 1.0), ("b", 0.0)], "a", "b"),
        ([("a", 0.0), ("b", 1.0)], "b", "a"),
        ([("a", 2.0), ("b", 5.0), ("c", -1.0)], "b", "c"),
        ([("a", 1.0), ("b", 1.0), ("c", 0.0), ("d", 0.0)], "a", "c"),  # of equals the first
        ([("a  b", 1.0), ("a b", 0.0)], "a  b", "a b"),  # blanks inside may be what is preferred
    ],
)
def test_the_highest_and_the_lowest_score(answers: list[tuple[str, float]], best: str, worst: str) -> None:
    found = preference(asked(*answers))
    assert not isinstance(found, Refusal)
    assert [one.messages[0].content for one in found] == [best, worst]


@pytest.mark.parametrize(
    ("answers", "reason", "said"),
    [
        ([], "no_pair", "no answers"),
        ([("a", 1.0)], "no_pair", "1 answers"),
        ([("a", 0.5), ("b", 0.5)], "no_preference", "all 2 answers have the score 0.5"),
        ([("a", float("nan")), ("b", 1.0)], "no_preference", ""),
        ([("a", 1.0), ("a", 0.0)], "no_preference", "are the same;"),
        ([("a", 1.0), ("a \n", 0.0)], "no_preference", "the same but for blanks or the form of accents"),
        ([("caf\u00e9", 1.0), ("cafe\u0301", 0.0)], "no_preference", "the same but for blanks"),
    ],
)
def test_what_is_no_preference_says_why(answers: list[tuple[str, float]], reason: str, said: str) -> None:
    found = preference(asked(*answers))
    assert isinstance(found, Refusal)
    assert found.reason == reason
    assert said in found.detail


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ([("a", 0.0), ("b", 1.0)], "ba"),
        ([("a", 2.0), ("b", 5.0), ("c", -1.0), ("d", 2.0)], "badc"),
        ([("a", 1.0), ("a", 1.0), ("b", 0.0)], "aab"),  # drawn twice, and scored alike
    ],
)
def test_a_ranking_has_all_answers_the_best_first(answers: list[tuple[str, float]], told: str) -> None:
    found = ranking(asked(*answers))
    assert not isinstance(found, Refusal)
    assert "".join(one.messages[0].content for one in found) == told


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ([("a", 1.0)], "1 answers"),
        ([("a", 0.5), ("b", 0.5), ("c", 0.5)], "all 3 answers have the score 0.5"),
        ([("a", 1.0), ("b", 0.5), ("a ", 0.25)], "one answer has two scores, 1 and 0.25"),
    ],
)
def test_what_is_no_ranking_says_why(answers: list[tuple[str, float]], said: str) -> None:
    found = ranking(asked(*answers))
    assert isinstance(found, Refusal)
    assert said in found.detail


@pytest.mark.parametrize(
    ("roles", "last"), [(["user", "assistant"], 1), (["assistant", "tool", "assistant", "user"], 2), (["text"], 0)]
)
def test_the_last_answer(roles: list[str], last: int) -> None:
    assert Conversation(1, tuple(Message(role, "x") for role in roles)).last_assistant == last
