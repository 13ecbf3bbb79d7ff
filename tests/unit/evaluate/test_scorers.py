"""Scores of a set, whoever answers which share of it; and what a recipe asks for that is not here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from answered import HOW, Parrot, write_store
from encoders import write_encoder
from fakes import FakeStore, make_recipe

from raysft.data.store.parts import TokenStore
from raysft.errors import ModelError
from raysft.evaluate.bertscore import BertScorer
from raysft.evaluate.evaluation import Share, evaluate_share, evaluation_of
from raysft.evaluate.scorers import SCORERS, check_metrics, make_scorers, scorer_settings
from raysft.metrics import METRICS
from raysft.metrics.base import Answer
from raysft.recipe.evaluation_sets import SetPlan
from raysft.recipe.sections.evaluate import BertscoreSection, EvaluateSection

REFERENCES = ["the river", "a model", "今天天气很好。", "模型训练数据", "a", "天", "3.5", "one two"]


def test_a_set_that_is_shared_by_tasks_has_the_same_record(tmp_path: Path) -> None:
    """Also with weights by rarity, which are those of all references."""
    encoder = str(write_encoder(tmp_path / "tiny"))
    write_store(
        tmp_path / "a",
        FakeStore([[9, 14, 5]]),
        [{"prompt": f"q{i}", "answer": f"q {to}"} for i, to in enumerate(REFERENCES)],
    )
    plans = {"a": SetPlan(("bertscore", "exact_match"), 7, 9)}
    sets = {"a": (TokenStore.open(str(tmp_path / "a")), plans["a"])}
    section = EvaluateSection(bertscore=BertscoreSection(model=encoder, layer=2, idf=True))
    scorers = make_scorers(section, plans["a"].metrics)
    assert [*scorers] == ["bertscore"]
    no_model: Any = None  # nothing is asked of its rows
    records = []
    for parts in (1, 3):
        shares = [
            evaluate_share(no_model, Parrot(), HOW, sets, share=Share(part, parts), scorers=scorers)
            for part in range(parts)
        ]
        records.append(evaluation_of(json.loads(json.dumps(shares)), plans))
    assert records[0] == records[1]
    answers = [Answer.of(fields) for fields in records[0]["a"]["answers"]]
    assert [one.scores["bertscore"].by for one in answers] == [BertScorer.load(section.bertscore).by] * 7


def test_every_metric_that_needs_scores_has_a_scorer_with_settings() -> None:
    assert {name for name, metric in METRICS.items() if metric.needs_scores} == {*SCORERS}
    assert {*SCORERS} <= {*EvaluateSection.model_fields}


def test_what_a_recipe_does_not_ask_for_is_not_needed(tmp_path: Path) -> None:
    encoder = {"bertscore": {"model": str(tmp_path / "nothing")}}
    sets = {"dev": {"data": "d.jsonl", "metrics": "rouge_l", "prompts": 9}}
    recipe = make_recipe(evaluate={"sets": sets, **encoder})
    assert scorer_settings(recipe) == {}
    check_metrics(recipe)
    sets["dev"]["metrics"] = "bertscore"
    recipe = make_recipe(evaluate={"sets": sets, **encoder})
    with pytest.raises(ModelError, match="no such directory"):
        check_metrics(recipe)
    write_encoder(tmp_path / "nothing")
    assert scorer_settings(recipe) == {"bertscore": {"model": str(tmp_path / "nothing"), "layer": None, "idf": False}}
    check_metrics(recipe)
