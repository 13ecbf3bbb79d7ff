"""Results by hand, the table, and preferences that train."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rated import VERDICTS, answers_file, pair_study, ratings_of

from raysft.human.export import to_preferences
from raysft.human.results import Agreement, Results, result_lines, results_of
from raysft.human.store import Rating
from raysft.human.study import Study, make_study


def results(tmp_path: Path) -> tuple[Study, Results]:
    study = pair_study(tmp_path).study()
    return study, results_of(study, ["alice", "bob"], ratings_of(study))


def test_a_study_of_pairs_by_hand(tmp_path: Path) -> None:
    study, found = results(tmp_path)
    alice, bob = found.raters
    assert (alice.rated, alice.total, alice.gold_right, alice.gold_rated) == (10, 10, 2, 2)
    assert (bob.gold_right, bob.training_right, bob.training_rated) == (1, 1, 2)
    # 5 of 6 agree; alice: 3 first, 1 second, 1 tie, 1 both_bad; bob: 2, 2, 1, 1. By chance (3*2 + 1*2 + 1 + 1) / 36.
    chance = 10 / 36
    assert found.kappas["alice", "bob", "verdict"] == Agreement(pytest.approx((5 / 6 - chance) / (1 - chance)), 5, 6)
    # alpha: n = 12, n_c = 5, 3, 2, 2; o disagreeing = 2 (first/second twice); sum of n_c n_k = 144 - 42 = 102
    assert found.alphas["verdict"] == pytest.approx(1 - 11 * 2 / 102)
    won = found.wins["before", "after"]
    assert (won.value, won.count) == (pytest.approx((5 + 0.5 * 4) / 12), 12)
    assert won.low is not None
    assert won.low <= won.value <= (won.high or 0)
    assert found.verdicts["before", "after"] == {"first": 5, "second": 3, "tie": 2, "both_bad": 2}
    sides = [study.said_of("alice", 4 + i, v) for i, v in enumerate(VERDICTS["alice"])]
    sides += [study.said_of("alice", i, "first") for i in range(4)]
    assert alice.left_share == sides.count("left") / (sides.count("left") + sides.count("right"))
    text = "\n".join(result_lines(study, found))
    assert "alice: 10 of 10 rated, hidden gold 2 of 2 right, training 2 of 2" in text
    assert "win rate     before against after: 58.3%" in text


def test_nobody_has_rated_yet(tmp_path: Path) -> None:
    study = pair_study(tmp_path).study()
    lines = result_lines(study, results_of(study, ["alice", "bob"], []))
    assert any("alpha not defined" in line for line in lines)


def test_scores_are_compared_in_their_order(tmp_path: Path) -> None:
    answers = {name: answers_file(tmp_path / f"{name}.jsonl", [f"{name} {i}" for i in range(3)]) for name in "ab"}
    study = make_study("scale", answers, criteria=("accuracy",))
    scores = {"x": [5, 1, 4, 2, 3, 3], "y": [4, 1, 5, 2, 3, 2]}
    ratings = [Rating(n, i, {"accuracy": s}, 1.0, 0.0) for n, of in scores.items() for i, s in enumerate(of)]
    found = results_of(study, ["x", "y"], ratings)
    assert [study.items[i].systems[0] for i in range(6)] == ["a", "b"] * 3
    assert found.means["a", "accuracy"].value == pytest.approx((5 + 4 + 3 + 4 + 5 + 3) / 6)
    assert found.means["b", "accuracy"].value == pytest.approx((1 + 2 + 3 + 1 + 2 + 2) / 6)
    metrics = pytest.importorskip("sklearn.metrics")
    theirs = metrics.cohen_kappa_score(scores["x"], scores["y"], weights="quadratic")
    assert found.kappas["x", "y", "accuracy"].kappa == pytest.approx(theirs)
    assert (found.alphas["accuracy"] or 0) > 0.8
    kept = [json.loads(line) for line in to_preferences(study, ratings).splitlines()]
    assert [(one["chosen"], one["rejected"]) for one in kept] == [("a 0", "b 0"), ("a 1", "b 1"), ("a 2", "b 2")]
