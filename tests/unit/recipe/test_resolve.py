"""Batch arithmetic, cross-field rules and learning-rate shapes, against formulas written here."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from fakes import make_recipe

from raysft.errors import ClusterError, RecipeError, UserError
from raysft.recipe.facts import ClusterFacts, DataFacts, ModelFacts, NodeFacts
from raysft.recipe.resolve import Schedule, fitting_workers, resolve, schedule, with_workers
from raysft.recipe.sections.optimizer import OptimizerSection

MODEL = ModelFacts(
    model_type="llama",
    num_layers=2,
    hidden_size=32,
    vocab_size=260,
    max_tokens=128,
    num_parameters=1000,
    attention_size=48,
    num_heads=6,
    num_kv_heads=6,
)
DATA = DataFacts(num_rows=21)


def cluster(*nodes: tuple[float, float]) -> ClusterFacts:
    return ClusterFacts(tuple(NodeFacts(cpus, gpus) for cpus, gpus in nodes))


def refuse(kind: type[UserError], facts: ClusterFacts | None = None, **sections: Any) -> str:
    with pytest.raises(kind) as caught:
        resolve(make_recipe(**sections), MODEL, facts)
    error = caught.value
    assert error.what
    assert error.got
    assert error.expected
    assert error.fix
    return str(error)


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
@pytest.mark.parametrize("rows", [5, 8, 16])
@pytest.mark.parametrize("micro", [1, 2, 4])
def test_every_row_of_a_step_has_a_place_and_no_micro_step_is_spare(workers: int, rows: int, micro: int) -> None:
    run = resolve(
        make_recipe(cluster={"workers": workers}, train={"rows_per_step": rows, "micro_batch_rows": micro}),
        MODEL,
        None,
    )
    assert run.num_replicas == workers
    places = run.num_replicas * micro * run.micro_steps
    assert run.rows_per_micro_step * run.micro_steps == places >= rows
    assert places - run.rows_per_micro_step < rows


def test_the_arithmetic_is_told_before_anything_starts() -> None:
    recipe = make_recipe(cluster={"workers": 3}, train={"rows_per_step": 8, "micro_batch_rows": 2})
    run = resolve(recipe, MODEL, None)
    text = "\n".join([*run.describe(), *schedule(run, DATA).describe()])
    for part in (
        "3 = 3 replicas",
        "8 rows x 64 tokens",
        "512 tokens",
        "2 micro-steps",
        "(4 of them empty)",
        "3 steps",
    ):
        assert part in text, text


@pytest.mark.parametrize(("rows", "epochs", "limit", "expected"), [(8, 2, None, 6), (7, 1, None, 3), (8, 5, 4, 4)])
def test_the_length_of_a_run(rows: int, epochs: int, limit: int | None, expected: int) -> None:
    recipe = make_recipe(train={"rows_per_step": rows, "epochs": epochs, "max_steps": limit})
    plan = schedule(resolve(recipe, MODEL, None), DATA)
    assert plan.total_steps == expected
    assert plan.steps_per_epoch == 3


def reference_rate(shape: str, step: int, *, peak: float, warmup: int, floor: float, total: int) -> float:
    """Warm-up over steps 0..warmup-1 that ends AT the peak; then the shape over the steps that are left."""
    if step < warmup:
        return peak / warmup * (step + 1)
    x = (step - warmup) / (total - warmup)
    if shape == "constant":
        return peak
    if shape == "linear":
        return peak - (peak - floor * peak) * x
    return floor * peak + (peak - floor * peak) * math.cos(math.pi * x / 2) ** 2


@pytest.mark.parametrize("shape", ["cosine", "linear", "constant"])
@pytest.mark.parametrize("warmup", [0, 1, 7])
@pytest.mark.parametrize("floor", [0.0, 0.1, 1.0])
def test_the_learning_rate_has_its_shape(shape: str, warmup: int, floor: float) -> None:
    fields = {"learning_rate": 3e-4, "schedule": shape, "warmup_steps": warmup, "min_lr_ratio": floor}
    plan = Schedule(total_steps=50, steps_per_epoch=10, optimizer=OptimizerSection(**fields))  # type: ignore[arg-type]
    rates = [plan.learning_rate(step) for step in range(50)]
    expected = [reference_rate(shape, step, peak=3e-4, warmup=warmup, floor=floor, total=50) for step in range(50)]
    assert rates == pytest.approx(expected, rel=1e-9)
    assert max(rates) == pytest.approx(3e-4)
    assert min(rates) > 0


def test_rates_past_the_end_do_not_rise_again() -> None:
    plan = Schedule(total_steps=10, steps_per_epoch=5, optimizer=OptimizerSection(min_lr_ratio=0.1))
    assert plan.learning_rate(10) == plan.learning_rate(25) == pytest.approx(2e-6)


def test_a_warm_up_as_long_as_the_run_is_refused() -> None:
    run = resolve(make_recipe(optimizer={"warmup_steps": 3}), MODEL, None)
    with pytest.raises(RecipeError, match="warm-up") as caught:
        schedule(run, DATA)
    assert "3 steps" in str(caught.value)


def test_more_replicas_than_rows_in_a_step() -> None:
    message = refuse(RecipeError, cluster={"workers": 9}, train={"rows_per_step": 8})
    assert "9 replicas" in message
    assert "train.rows_per_step to 9" in message


@pytest.mark.parametrize("split", [{"tensor": 2}, {"pipeline": 2}, {"sequence": 2}, {"tensor": 2, "sequence": 3}])
def test_a_world_size_that_is_no_multiple_of_the_split(split: dict[str, int]) -> None:
    message = refuse(RecipeError, cluster={"workers": 5}, parallel=split)
    assert "do not divide" in message
    assert f"= {math.prod(split.values())}" in message


@pytest.mark.parametrize(
    ("nodes", "want", "fits"),
    [
        ([(4, 0)], {"workers": 4}, True),
        ([(4, 0)], {"workers": 5}, False),
        ([(2, 0), (2, 0)], {"workers": 4}, True),
        ([(3, 0), (3, 0)], {"workers": 3, "cpus_per_worker": 2}, False),
        ([(3, 0), (3, 0)], {"workers": 2, "cpus_per_worker": 3}, True),
        ([(8, 1)], {"workers": 2, "gpus_per_worker": 1}, False),
        ([(8, 2)], {"workers": 2, "gpus_per_worker": 1}, True),
        ([(1, 2)], {"workers": 2, "gpus_per_worker": 1}, False),
        ([], {"workers": 1}, False),
    ],
)
def test_more_workers_than_the_cluster_can_ever_hold(
    nodes: list[tuple[float, float]], want: dict[str, int], fits: bool
) -> None:
    if fits:
        assert resolve(make_recipe(cluster=want), MODEL, cluster(*nodes)).num_workers == want["workers"]
        return
    message = refuse(ClusterError, cluster(*nodes), cluster=want)
    assert "can never hold" in message
    assert f"{want['workers']} workers" in message


@pytest.mark.parametrize(
    ("model", "text"),
    [
        ({"source": "x/y"}, "do not fit together"),
        ({"config": None}, "do not fit together"),
        ({"tokenizer": None}, "need a tokenizer"),
    ],
)
def test_a_model_source_that_contradicts_itself(model: dict[str, Any], text: str) -> None:
    assert text in refuse(RecipeError, model=model)


def test_held_out_data_given_twice_or_not_at_all() -> None:
    assert "given twice" in refuse(RecipeError, data={"eval": "e.jsonl", "eval_fraction": 0.1})
    for wish in ({"every_steps": 5}, {"generate_prompts": 3}):
        assert "no held-out data" in refuse(RecipeError, evaluate=wish)
        resolve(make_recipe(evaluate=wish, data={"eval_fraction": 0.1}), MODEL, None)
        resolve(make_recipe(evaluate=wish, data={"eval": "e.jsonl"}), MODEL, None)


def test_rows_longer_than_the_models_positions() -> None:
    assert "at most 128" in refuse(RecipeError, data={"max_tokens": 129})
    resolve(make_recipe(data={"max_tokens": 128}), MODEL, None)
    endless = replace(MODEL, max_tokens=None)
    resolve(make_recipe(data={"max_tokens": 4096}), endless, None)


@pytest.mark.parametrize(
    ("cpus", "least", "split", "expected"),
    [
        ((4, 4), None, 1, 8),
        ((4, 3), None, 1, None),  # a fixed number: all of them or none
        ((4, 3), 1, 1, 7),
        ((4, 3), 1, 2, 6),  # whole replicas only
        ((4,), 4, 4, 4),
        ((3,), 4, 4, None),
        ((3,), 2, 4, None),  # not one replica
        ((1,), 2, 1, None),
        ((99, 99), 2, 1, 8),  # never more than the most
        ((), 1, 1, None),
    ],
)
def test_as_many_workers_as_the_nodes_hold(
    cpus: tuple[int, ...], least: int | None, split: int, expected: int | None
) -> None:
    workers: Any = 8 if least is None else {"min": least, "max": 8}
    recipe = make_recipe(cluster={"workers": workers}, parallel={"tensor": split, "zero": 0})
    assert fitting_workers(recipe, [NodeFacts(cpus=n, gpus=0) for n in cpus]) == expected


def test_other_numbers_of_workers_leave_the_global_step() -> None:
    recipe = make_recipe(
        cluster={"workers": {"min": 2, "max": 8}}, train={"rows_per_step": 24, "micro_batch_rows": 1}
    )
    assert (recipe.cluster.workers, recipe.cluster.min_workers) == (8, 2)
    found = [resolve(with_workers(recipe, workers), MODEL, None) for workers in (8, 6, 2)]
    assert [run.num_replicas for run in found] == [8, 6, 2]
    assert [run.micro_steps for run in found] == [3, 4, 12]
    assert {run.recipe.train.rows_per_step for run in found} == {24}


def test_the_fewest_workers_are_not_more_than_the_most() -> None:
    with pytest.raises(RecipeError, match="fewest workers"):
        resolve(make_recipe(cluster={"workers": {"min": 3, "max": 2}}), MODEL, None)
    with pytest.raises(RecipeError, match=r"cluster\.workers"):
        make_recipe(cluster={"workers": {"min": 3}})
