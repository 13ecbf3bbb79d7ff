"""What Ray Tune is told about a search that meets damage, without Ray: nothing is raised through Tune."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.tune.search import Searcher
from replay import open_sweep, search_recipe

from raysft.errors import StorageError
from raysft.recipe.change import change
from raysft.search.study import Study
from raysft.search.sweep import Sweep
from raysft.search.tune_driver import SearchListener, _SweepSearcher, is_warm

SPACE = {"optimizer.learning_rate": {"distribution": "uniform", "low": 0.1, "high": 0.2}}


class Heard(SearchListener):
    """Keeps how trials ended."""

    def __init__(self) -> None:
        self.ends: list[tuple[int, str, str]] = []

    def ended(self, number: int, state: str, why: str) -> None:
        self.ends.append((number, state, why))


def said(step: int, value: float, *, last: bool) -> Iterator[dict[str, Any]]:
    """Reports as a trial's process sends them."""
    spent = {"seconds": 1.0, "core_s": 1.0, "gpu_s": 0.0}
    yield {"message": json.dumps({"step": step, "total": 4, "values": [value], "spent": spent})}
    if last:
        yield {"message": json.dumps({"ended": {"status": "finished"}, "spent": spent})}


def searcher(tmp_path: Path, **tune: Any) -> tuple[_SweepSearcher, Sweep, Study, Heard]:
    recipe = search_recipe(SPACE, budget={"trials": 2}, searcher="random", **tune)
    recipe = change(recipe, {"storage": str(tmp_path)})
    (sweep, study), heard = open_sweep(recipe), Heard()
    return _SweepSearcher(recipe, sweep, heard, []), sweep, study, heard


def test_a_copy_whose_source_is_gone_fails_and_the_search_goes_on(tmp_path: Path) -> None:
    passed, _, study, heard = searcher(tmp_path, scheduler={"kind": "pbt", "min_steps": 2, "quantile": 0.5})
    for name in ("a", "b"):
        assert passed.suggest(name)["pause_step"] == 2
    for name, value in (("a", 1.0), ("b", 2.0)):
        for report in said(2, value, last=True):
            passed.on_trial_result(name, report)
        passed.on_trial_complete(name)
    found = [passed.suggest(name) for name in ("c", "d")]
    (child,) = [trial for trial in study.trials() if "copies" in trial.facts]
    assert (child.state, child.facts["at"]) == ("failed", 2)
    assert "checkpoint of step 2" in child.facts["why"]
    assert heard.ends[-1][:2] == (child.number, "failed")
    assert [config["number"] for config in found if config] == [0], "the source goes on"
    assert passed.error is None


def test_a_database_that_fails_ends_the_search_with_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed, sweep, study, _ = searcher(tmp_path)
    passed.suggest("a")
    passed.suggest("b")

    def full(*arguments: Any) -> None:
        raise StorageError("cannot use the study's database", got="disk full")

    monkeypatch.setattr(study, "report", full)
    for report in said(2, 1.0, last=False):
        passed.on_trial_result("a", report)
    for number in (0, 1):
        assert (tmp_path / "runs" / f"sweep-{number}" / "requests" / "stop.json").exists()
    for name in ("a", "b"):
        passed.on_trial_complete(name)
    assert sweep.is_over
    assert passed.suggest("c") == Searcher.FINISHED
    assert isinstance(passed.error, StorageError)


@pytest.mark.parametrize(
    ("objective", "field", "expected"),
    [
        ({"kind": "sft"}, "objective.kl_top_k", False),
        ({"kind": "sft"}, "objective.kl_weight", False),
        ({"kind": "dpo"}, "objective.beta", True),
        ({"kind": "dpo"}, "optimizer.learning_rate", True),
        ({"kind": "dpo"}, "seed", False),
        ({"kind": "sft"}, "seed", True),
    ],
)
def test_a_trial_whose_columns_are_its_own_does_not_hold_the_cpus_that_make_them(
    objective: dict[str, Any], field: str, expected: bool
) -> None:
    space = {field: {"distribution": "choice", "values": [1, 2]}}
    tuned = change(search_recipe(space), {"objective": objective, "cluster.workers": 1})
    assert tuned.tune is not None
    assert is_warm(tuned, tuned.tune) is expected
