"""How many tasks share an evaluation, and that what they find is put together in order."""

from __future__ import annotations

from typing import Any

import pytest
from fakes import make_recipe

from raysft.errors import DataError
from raysft.recipe.change import change
from raysft.recipe.evaluation_sets import evaluation_tasks
from raysft.run import evaluation_tasks as module
from raysft.run.evaluation_tasks import evaluate_by_tasks


def recipe(workers: int, prompts: int, more: int = 0) -> Any:
    sets = {"dev": {"data": "d.jsonl", "metrics": "exact_match", "prompts": more}} if more else {}
    return make_recipe(
        data={"train": "t.jsonl", "eval_fraction": 0.5},
        cluster={"workers": workers},
        evaluate={"generate_prompts": prompts, "sets": sets},
    )


@pytest.mark.parametrize(
    ("workers", "prompts", "more", "tasks"),
    [(4, 0, 0, 1), (4, 32, 0, 1), (4, 33, 0, 2), (4, 16, 17, 2), (4, 1000, 0, 4), (1, 1000, 0, 1)],
)
def test_as_many_tasks_as_there_is_work_and_workers(workers: int, prompts: int, more: int, tasks: int) -> None:
    assert evaluation_tasks(recipe(workers, prompts, more)) == tasks


def test_shares_come_in_any_order_and_are_put_together_in_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    def task(fields: Any, stores: Any, share: tuple[int, int], run: str) -> dict[str, Any]:
        part, parts = share
        assert (parts, run) == (3, "the run")
        answers = [[f"q{part}", f"a{part}", f"a{part}"]]
        return {"held_out": {"rows": [[1.0 + part, 2.0, 3, False]], "answers": answers}}

    def backwards(function: Any, items: Any, resources: Any) -> Any:
        assert (resources.cpus, resources.at_once) == (1, 3)
        return [function(item) for item in reversed(items)]

    monkeypatch.setattr(module, "on_ray", backwards)
    found = evaluate_by_tasks(recipe(3, 70), task, {"held_out": "store"}, "the run")["held_out"]
    assert (found["metrics"]["loss"]["value"], found["metrics"]["loss"]["count"]) == (1.0, 9)
    assert [prompt for prompt, *_ in found["answers"]] == ["q0", "q1", "q2"]


@pytest.mark.parametrize(("prompts", "tasks"), [(4, 1), (200, 2)])
def test_a_model_that_no_gpu_holds_has_several(monkeypatch: pytest.MonkeyPatch, prompts: int, tasks: int) -> None:
    """Five workers of a GPU each, two GPUs a task: two at a time."""
    asked: list[tuple[int, int]] = []
    found = {"held_out": {"rows": [[1.0, 2.0, 3, False]], "answers": []}}

    def by_one(*_: object, gpus: int) -> Any:
        asked.append((1, gpus))
        return found

    def by_several(function: Any, items: Any, resources: Any) -> Any:
        asked.append((resources.at_once, resources.gpus))
        return [(item["part"], found) for item in items]

    monkeypatch.setattr(module, "evaluation_gpus", lambda *_: 2)
    monkeypatch.setattr(module, "cluster_facts", lambda: None)
    monkeypatch.setattr(module, "run_task", by_one)
    monkeypatch.setattr(module, "on_ray", by_several)
    wanted = change(recipe(5, prompts), {"cluster.gpus_per_worker": 1})
    evaluate_by_tasks(wanted, lambda: {}, {"held_out": "store"})
    assert asked == [(tasks, 2)]


def test_rows_without_a_target_are_refused_when_all_shares_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        module, "run_task", lambda *_, **__: {"held_out": {"rows": [[0.0, 0.0, 0, False]], "answers": []}}
    )
    with pytest.raises(DataError, match="nothing to evaluate on"):
        evaluate_by_tasks(recipe(2, 0), lambda: {}, {"held_out": "store"})
