"""BERTScore of scores that are made up: its value, what stands behind it, and which answers are comparable."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from raysft.errors import UserError
from raysft.metrics import METRICS
from raysft.metrics.base import Answer, Score
from raysft.metrics.estimate import compare, estimate

BERTSCORE = METRICS["bertscore"]
NUMBERS = [
    (0.5, 0.7, 0.6, 1.0, 0.0, 0.0, 20.0),
    (0.9, 0.7, 0.8, 1.0, 1.0, 1.0, 30.0),
    (0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 4.0),
]


def answers(by: str = "tiny, layer 2", numbers: list[tuple[float, ...]] = NUMBERS) -> list[Answer]:
    return [Answer(f"q{i}", "said", "right", {"bertscore": Score(by, one)}) for i, one in enumerate(numbers)]


def test_the_value_is_the_mean_f1_and_the_rest_is_told() -> None:
    found = estimate(BERTSCORE, answers())
    assert found.value == pytest.approx((0.6 + 0.8) / 3)
    assert found.low is not None
    assert found.low < found.value < (found.high or 0)
    assert found.details == pytest.approx(
        {"precision": 1.4 / 3, "recall": 1.4 / 3, "cut_texts": 1, "unknown_tokens": 1 / 54}
    )
    assert found.how == (
        "tiny, layer 2; precision 0.4667, recall 0.4667; 1 of 6 texts cut at what the encoder reads; "
        "1.9% of the tokens unknown to the encoder"
    )
    doubted = estimate(BERTSCORE, answers(numbers=[(0.9, 0.9, 0.9, 1.0, 0.0, 3.0, 4.0)]))
    assert "75% of the tokens" in doubted.details["doubt"]


def test_what_is_written_is_read() -> None:
    for answer in (*answers(), Answer("a", "b", "c")):
        assert Answer.of(json.loads(json.dumps(answer.as_json()))) == answer
    assert Answer("a", "b", "c").as_json() == ["a", "b", "c"]  # as earlier versions have written them


def test_scores_by_others_are_not_compared() -> None:
    better = [replace(one, scores={"bertscore": Score("tiny, layer 2", (1, 1, 1, 1, 0, 0, 9))}) for one in answers()]
    change = compare(BERTSCORE, answers(), better)
    assert change is not None
    assert change.difference == pytest.approx(1 - 1.4 / 3)
    assert compare(BERTSCORE, answers(), answers("tiny, layer 3")) is None
    assert compare(BERTSCORE, answers(), [replace(one, scores={}) for one in answers()]) is None


def test_answers_without_a_score_are_refused() -> None:
    with pytest.raises(UserError, match="no function of the texts alone") as caught:
        estimate(BERTSCORE, [*answers(), Answer("q", "said", "right")])
    assert "1 of 4 answers" in str(caught.value)
