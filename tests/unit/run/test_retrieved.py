"""Evaluations of vectors are made once each, before and after, and kept in the run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import make_recipe

from raysft.data.prepare.prepared import Prepared
from raysft.evaluate.retrieval import retrieval_record
from raysft.run import retrieved
from raysft.run.evaluations import Evaluated
from raysft.run.retrieved import evaluate_vectors

DATA = {"train": "t.jsonl", "eval_fraction": 0.5}


def evaluated(directory: Path, store: str | None) -> Evaluated:
    recipe = make_recipe(objective={"kind": "contrastive"}, data=DATA)
    manifest: dict[str, Any] = {}
    return Evaluated(
        str(directory), recipe, Prepared(None, store, manifest, manifest if store else None), {"mathematics": "m"}
    )


def test_a_task_measures_each_model_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def run_task(cluster: Any, task: Any, fields: dict[str, Any], stores: dict[str, str], run: str | None) -> Any:
        asked.append((stores, run))
        return {"held_out": retrieval_record([1, 2] if run is None else [1, 1], 2)}

    monkeypatch.setattr(retrieved, "run_task", run_task)
    of = evaluated(tmp_path, "there")
    for _ in range(2):
        before, after = evaluate_vectors(of, "before"), evaluate_vectors(of, "after")
        assert before is not None
        assert after is not None
        told = [one["held_out"]["metrics"]["recall_at_1"]["value"] for one in (before, after)]
        assert told == [0.5, 1.0]
    assert asked == [({"held_out": "there"}, None), ({"held_out": "there"}, str(tmp_path))]
    fewer = replace(of, recipe=make_recipe(objective={"kind": "contrastive"}, evaluate={"max_rows": 3}, data=DATA))
    for _ in range(2):
        evaluate_vectors(fewer, "before")
    assert len(asked) == 3, "of other rows it is made anew"


def test_without_held_out_texts_nothing_is_measured(tmp_path: Path) -> None:
    assert evaluate_vectors(evaluated(tmp_path, None), "before") is None
