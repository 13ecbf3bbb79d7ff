"""Evaluations of a run: in one line, kept and read again, those of earlier versions, too."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import make_recipe

from raysft import sealed
from raysft.data.prepare.prepared import Prepared, Store
from raysft.evaluate.scorers import scorer_settings
from raysft.metrics.base import Answer, Score
from raysft.recipe.change import change
from raysft.run import evaluations
from raysft.run.evaluations import (
    Evaluated,
    by_set,
    evaluate_once,
    evaluation_line,
    read_answers,
    read_evaluation,
    write_evaluation,
)

PRINTS = {"mathematics": "m"}
OLD = {"loss": 1.5, "perplexity": 4.48, "target_tokens": 9, "exact_match": 0.25, "num_prompts": 4, "samples": []}
ROWS = {"metrics": {"loss": {"value": 2.0, "count": 7, "low": 1.5, "high": 2.5}}, "num_prompts": 0, "samples": []}
MATCH = {"exact_match": {"value": 0.96, "count": 200, "low": 0.92309, "high": 0.97961}}
ANSWERS = {"metrics": {**ROWS["metrics"], **MATCH}, "num_prompts": 200, "samples": []}  # type: ignore[dict-item]


@pytest.mark.parametrize(("told", "of"), [({"of_pairs": True}, " of the preferred answers"), ({}, "")])
def test_a_held_out_loss_says_what_it_is_of(told: dict[str, bool], of: str) -> None:
    evaluation = by_set({**OLD, "exact_match": None, **told})
    assert evaluation is not None
    assert evaluation_line(evaluation) == f"held-out loss{of} 1.5000, perplexity 4.4800"


def test_every_set_is_told_with_the_interval_of_its_answers() -> None:
    assert evaluation_line({"held_out": ROWS, "gsm8k": ANSWERS}) == (
        "held-out loss 2.0000; "
        "gsm8k: loss 2.0000, exact match of greedy answers 96.0% (92.3% to 98.0%) of 200 prompts"
    )


def test_a_classifier_labels_texts_and_answers_no_prompt() -> None:
    record = {"metrics": {"ece": {"value": 0.125, "count": 40}}, "num_prompts": 40, "classes": {}}
    assert evaluation_line({"held_out": record}) == "held-out calibration error (ECE) 12.5% of 40 texts"


def test_what_an_earlier_version_has_kept_is_of_the_held_out_data(tmp_path: Path) -> None:
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "before.json").write_text(json.dumps(OLD))
    found = read_evaluation(str(tmp_path), "before", PRINTS)
    assert found is not None
    assert {name: (one["value"], one["count"]) for name, one in found["held_out"]["metrics"].items()} == {
        "loss": (1.5, 9),
        "perplexity": (4.48, 9),
        "exact_match": (0.25, 4),
    }
    assert found["held_out"]["num_prompts"] == 4
    write_evaluation(str(tmp_path), "after", found, PRINTS)
    assert read_evaluation(str(tmp_path), "after", PRINTS) == found
    assert read_evaluation(str(tmp_path), "after", {"mathematics": "another"}) is None


@pytest.mark.parametrize("record", [{}, {"sets": 5}, {"sets": {"dev": 1}}, {"sets": {"dev": {}}}, {"loss": "x"}])
def test_what_is_no_evaluation_is_passed_over(tmp_path: Path, record: dict[str, Any]) -> None:
    sealed.write(str(tmp_path / "evaluation" / "after.json"), {**record, "mathematics": "m"})
    assert read_evaluation(str(tmp_path), "after", PRINTS) is None


def test_an_evaluation_is_made_once_and_anew_when_the_recipe_asks_for_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[dict[str, str]] = []

    def run(recipe: Any, task: Any, stores: dict[str, str]) -> dict[str, Any]:
        made.append(stores)
        return {name: ROWS if name == "held_out" else ANSWERS for name in stores}

    monkeypatch.setattr(evaluations, "evaluate_by_tasks", run)
    data = {"train": "t.jsonl", "eval_fraction": 0.5}
    one = make_recipe(data=data)
    two = make_recipe(data=data, evaluate={"sets": {"dev": {"data": "d", "metrics": "exact_match", "prompts": 2}}})
    alone = Prepared(None, "held", {}, {})
    both = Prepared(None, "held", {}, {}, {"dev": Store("dev", {})})
    for recipe, prepared in ((one, alone), (one, alone), (two, both), (two, both), (one, alone)):
        evaluate_once(Evaluated(str(tmp_path), recipe, prepared, PRINTS), "before", SimpleNamespace)
    assert made == [{"held_out": "held"}, {"held_out": "held", "dev": "dev"}]
    assert len(made) == 2
    nothing = Evaluated(str(tmp_path), one, Prepared(None, None, {}, None), PRINTS)
    assert evaluate_once(nothing, "before", SimpleNamespace) is None


def test_answers_are_kept_and_compared_with_those_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"before": "wrong", "after": "right"}

    def run(recipe: Any, task: Any, stores: dict[str, str]) -> dict[str, Any]:
        told = [[f"q{i}", said[when], "right"] for i in range(20)]
        return {"held_out": {**ROWS, "metrics": {**ROWS["metrics"], **MATCH}, "answers": told}}  # type: ignore[dict-item]

    monkeypatch.setattr(evaluations, "evaluate_by_tasks", run)
    recipe = make_recipe(data={"train": "t.jsonl", "eval_fraction": 0.5}, evaluate={"generate_prompts": 20})
    of = Evaluated(str(tmp_path), recipe, Prepared(None, "held", {}, {}), PRINTS)
    found: dict[str, Any] = {}
    for when in said:
        found[when] = evaluate_once(of, when, SimpleNamespace)
        assert read_evaluation(str(tmp_path), when, PRINTS) == found[when]
        assert read_answers(str(tmp_path), when, PRINTS)["held_out"][3] == Answer("q3", said[when], "right")
        assert "answers" not in found[when]["held_out"]
    change = found["after"]["held_out"]["changes"]["exact_match"]
    assert (change["difference"], change["count"]) == (1.0, 20)
    assert change["p"] < 0.001
    assert "changes" not in found["before"]["held_out"]
    assert read_answers(str(tmp_path), "before", {"mathematics": "another"}) == {}


def test_answers_keep_their_scores_and_are_scored_anew_by_another_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def run(recipe: Any, task: Any, stores: dict[str, str]) -> dict[str, Any]:
        made.append(scorer_settings(recipe)["toxicity"])
        told = [[f"q{i}", "said", "right", {"toxicity": [made[-1], [float(i == 3), 1.0]]}] for i in range(9)]
        metrics = {"toxicity": {"value": 1 / 9, "count": 9}}
        return {"dev": {"metrics": metrics, "num_prompts": 9, "samples": [], "answers": told}}

    monkeypatch.setattr(evaluations, "evaluate_by_tasks", run)
    terms = tmp_path / "terms.txt"
    sets = {"dev": {"data": "d.jsonl", "metrics": "toxicity", "prompts": 9}}
    recipe = make_recipe(evaluate={"sets": sets, "toxicity": {"lists": str(terms)}})
    of = Evaluated(str(tmp_path / "run"), recipe, Prepared(None, None, {}, None, {"dev": Store("dev", {})}), PRINTS)

    def once(when: str) -> dict[str, Any]:
        found = evaluate_once(of, when, SimpleNamespace)
        assert found is not None
        return found

    terms.write_text("idiot\n")
    once("before")
    once("before")
    assert len(made) == 1
    answer = read_answers(of.run, "before", PRINTS)["dev"][3]
    assert answer.scores["toxicity"] == Score(made[0], (1.0, 1.0))
    assert "toxicity" in once("after")["dev"]["changes"]
    terms.write_text("idiot\nfool\n")
    assert once("after")["dev"]["changes"] == {}  # by another list than before
    assert len(made) == 3
    assert made[0] == made[1] != made[2]


@pytest.mark.parametrize(
    ("changed", "data", "is_anew"),
    [
        ({"evaluate.max_new_tokens": 7}, "d", True),
        ({"evaluate.sets.dev.prompts": 3}, "d", True),
        ({"evaluate.max_rows": 9}, "d", True),
        ({}, "other", True),
        ({"evaluate.sets.held_out": {"metrics": "loss"}}, "d", False),
        ({"evaluate.every_steps": 5, "cluster.workers": 2}, "d", False),
    ],
)
def test_an_evaluation_is_made_anew_when_its_sets_would_be_asked_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], data: str, is_anew: bool
) -> None:
    made: list[Any] = []

    def run(recipe: Any, task: Any, stores: dict[str, str]) -> dict[str, Any]:
        made.append(recipe)
        return {name: ROWS if name == "held_out" else ANSWERS for name in stores}

    monkeypatch.setattr(evaluations, "evaluate_by_tasks", run)
    sets = {"dev": {"data": "d", "metrics": "exact_match", "prompts": 2}}
    first = make_recipe(data={"train": "t.jsonl", "eval_fraction": 0.5}, evaluate={"sets": sets})
    for recipe, print_of in ((first, "d"), (change(first, changed), data), (change(first, changed), data)):
        prepared = Prepared(None, "held", {}, {"fingerprint": "h"}, {"dev": Store("dev", {"fingerprint": print_of})})
        evaluate_once(Evaluated(str(tmp_path), recipe, prepared, PRINTS), "before", SimpleNamespace)
    assert len(made) == 1 + is_anew
