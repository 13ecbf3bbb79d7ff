"""`raysft evaluate` of what writes nothing; `raysft report`: a run under way, a finished one, and what is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from fakes import make_recipe, recipe_content

from raysft.errors import UserError
from raysft.run.steps import evaluate, report


@pytest.mark.parametrize("objective", [{"kind": "contrastive"}, {"kind": "classify", "labels": ["a", "b"]}])
def test_a_model_that_writes_nothing_is_not_evaluated_as_one_that_does(objective: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="models that write"):
        evaluate(make_recipe(objective=objective, data={"eval_fraction": 0.1}), None)


def test_a_recipe_and_its_directory_tell_the_same(tmp_path: Path) -> None:
    run = tmp_path / "storage" / "runs" / "tiny"
    (run / "goodput").mkdir(parents=True)
    lines = [
        {"phase": name, "ns": ns, "at_ns": ns, "attempt": None} for name, ns in (("start", 0), ("end", 4 * 10**9))
    ]
    (run / "goodput" / "driver-0001.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(recipe_content(storage=str(tmp_path / "storage"))))
    told = report(str(recipe), [])
    assert [line for line in told if "diagnosis" not in line] == report(str(run), [])  # it has no run.json
    told = report(str(run), [])
    assert "(failed: it has ended before its first step" in told[0]
    assert told[1:3] == ["loss         no step is recorded", "goodput 0.0% of 4.0 s"]
    assert told[-1] == "no incident"
    result = {"steps": 4, "before": None, "after": None, "exports": [], "report": str(run / "report.html")}
    (run / "result.json").write_text(json.dumps({**result, "finished_at": "2026-01-02T03:04:05+00:00"}))
    assert "finished 2026-01-02T03:04:05+00:00" in report(str(run), [])[0]
    with pytest.raises(UserError, match="no record of the time"):
        report(str(recipe), ["name=other"])
