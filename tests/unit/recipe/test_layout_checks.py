"""Layouts that cannot run, and the nearest one that can."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import replace

import pytest
from layouts import LLAMA_8B, recipe_with

from raysft.errors import RecipeError
from raysft.recipe import layout_checks
from raysft.recipe.change import change
from raysft.recipe.facts import ModelFacts
from raysft.recipe.resolve import resolve
from raysft.recipe.schema import Recipe


def refuse(recipe: Recipe, model: ModelFacts = LLAMA_8B) -> RecipeError:
    started = time.monotonic()
    with pytest.raises(RecipeError) as caught:
        resolve(recipe, model, None)
    assert time.monotonic() - started < 1
    error = caught.value
    assert error.got
    assert error.expected
    return error


@pytest.mark.parametrize(
    ("parallel", "what", "fix"),
    [
        ({"zero": 2, "pipeline": 2}, "gradients of all its micro-batches", "set parallel.zero to 1 "),
        ({"zero": 3, "tensor": 2}, "AutoTP", "set parallel.zero to 2 "),
        ({"zero": 1, "pipeline": 2, "sequence": 2}, "whole rows", "set parallel.pipeline to 1 "),
        ({"zero": 1, "pipeline": 2, "tensor": 2}, "does not shard the layers", "set parallel."),
        ({"zero": 1, "tensor": 3}, "do not divide into replicas", "set parallel.tensor to 4 "),
        ({"zero": 1, "workers": 6, "tensor": 3}, "do not divide over tensor", "set parallel.tensor to 2 "),
        ({"zero": 1, "workers": 16, "tensor": 16}, "heads of keys", "set parallel.tensor to 8 "),
        ({"zero": 1, "workers": 64, "sequence": 64}, "over sequence", "set parallel.sequence to 32 "),
        ({"zero": 1, "workers": 64, "tensor": 8, "sequence": 8}, "over sequence", "to 4 "),
        (
            {"zero": 1, "workers": 64, "pipeline": 64},
            "more pipeline stages than layers",
            "set parallel.pipeline to 32 ",
        ),
        ({"zero": 1, "workers": 7, "pipeline": 2}, "got: cluster.workers = 7", "set cluster.workers to 6 "),
        ({"zero": 1, "workers": 128}, "more replicas than rows", " to 2 (the nearest"),
    ],
)
def test_what_cannot_run_is_refused_with_the_nearest_layout_that_can(
    parallel: dict[str, int], what: str, fix: str
) -> None:
    error = refuse(recipe_with(**parallel))
    assert what in str(error)
    assert fix in error.fix


@pytest.mark.parametrize("axis", ["pipeline", "sequence"])
def test_noise_on_embeddings_is_refused_where_rows_are_cut(axis: str) -> None:
    error = refuse(change(recipe_with(zero=1, workers=8, **{axis: 2}), {"train.embedding_noise": 5.0}))
    assert f"parallel.{axis} = 2" in error.got
    assert f"set parallel.{axis} to 1 " in error.fix


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"pipeline": 2}, "pipeline = 2"), ({"tensor": 2}, "tensor = 2"), ({"zero": 3}, "zero = 3")],
)
def test_adversarial_training_wants_whole_models(changes: dict[str, int], named: str) -> None:
    given = recipe_with(**{"zero": 1, "workers": 8, **changes})
    error = refuse(change(given, {"train.adversarial_epsilon": 1.0}))
    assert f"parallel.{named}" in error.got


@pytest.mark.parametrize("axis", ["pipeline", "tensor"])
def test_a_model_that_cannot_be_cut_is_refused(axis: str) -> None:
    error = refuse(recipe_with(zero=1, **{axis: 2}), replace(LLAMA_8B, model_type="phi3"))
    assert "gpt_neox" in error.expected
    assert error.fix.startswith(f"set parallel.{axis} to 1 ")


def test_the_nearest_layout_always_runs_and_is_as_near_as_any() -> None:
    """Every layout of a small neighbourhood, against a search of this test's own."""
    small = replace(LLAMA_8B, num_layers=3, num_heads=6, num_kv_heads=2)
    grid = list(itertools.product(range(4), (1, 2, 3, 4), (1, 2, 3, 4), (1, 2, 3, 4)))
    possible = []
    for zero, tensor, pipeline, sequence in grid:
        runs = 12 % (tensor * pipeline * sequence) == 0 and pipeline <= 3 and 6 % (tensor * sequence) == 0
        runs &= 2 % tensor == 0  # heads of keys and values
        runs &= not (pipeline > 1 and (zero >= 2 or sequence > 1 or tensor > 1)) and not (tensor > 1 and zero == 3)
        possible += [(zero, tensor, pipeline, sequence)] * runs
    for place in grid:
        zero, tensor, pipeline, sequence = place
        recipe = recipe_with(workers=12, zero=zero, tensor=tensor, pipeline=pipeline, sequence=sequence)
        assert (next(layout_checks.layout_problems(recipe, small), None) is None) == (place in possible)
        if place in possible:
            continue
        near = layout_checks.nearest(recipe, small)
        assert next(layout_checks.layout_problems(near, small), None) is None
        if near.cluster.workers == 12:
            found = near.parallel
            distance = far(place, (found.zero, found.tensor, found.pipeline, found.sequence))
            assert distance == pytest.approx(min(far(place, other) for other in possible)), layout_checks.changes(
                recipe, near
            )


def far(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    """Half a point for each ZeRO stage, one for each doubling of an axis."""
    return abs(one[0] - other[0]) / 2 + sum(abs(math.log2(a / b)) for a, b in zip(one[1:], other[1:], strict=True))


def test_a_thousand_workers_are_answered_within_a_second() -> None:
    refuse(recipe_with(workers=1023, rows=4096, zero=1, tensor=2, pipeline=3))
