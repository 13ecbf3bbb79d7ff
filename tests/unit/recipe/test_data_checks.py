"""Rules over several fields of data: mixtures that contradict themselves, and what a stream cannot do."""

from __future__ import annotations

from typing import Any

import pytest
from fakes import make_recipe
from refusals import refuse

from raysft.recipe.checks import check_recipe

STREAM = {"mode": "stream", "order": "windowed"}


def two(first: dict[str, Any], second: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"path": "a.jsonl", **first}, {"path": "b.jsonl", **second}]


def test_a_weight_for_every_source_or_for_none() -> None:
    assert "only some sources have a weight" in refuse(data={"train": two({"weight": 2.0}, {})})
    assert "1 of the 2" in refuse(data={"train": [{"path": "a", "weight": 1.0}, "b.jsonl"]})
    check_recipe(make_recipe(data={"train": two({"weight": 2.0}, {"weight": 1.0})}))


def test_a_column_is_read_or_left_out() -> None:
    data = {"train": "a.jsonl", "columns": {"system": "sp"}, "ignore_columns": ["sp", "mood"]}
    assert "sp in data.columns and in data.ignore_columns" in refuse(data=data)
    check_recipe(make_recipe(data={**data, "ignore_columns": "mood"}))


@pytest.mark.parametrize(
    ("train", "mixture", "named"),
    [
        (two({"weight": 2.0}, {"weight": 1.0}), {"temperature": 2.0}, ("weight", "temperature")),
        (two({"weight": 2.0}, {"weight": 1.0, "epochs": 2.0}), {}, ("weight", "epochs")),
        (two({"epochs": 2.0}, {}), {"temperature": 2.0}, ("temperature", "epochs")),
    ],
)
def test_one_way_to_say_how_much_of_each_source(
    train: list[dict[str, Any]], mixture: dict[str, Any], named: tuple[str, str]
) -> None:
    message = refuse(data={"train": train, "mixture": mixture})
    assert all(name in message.split("expected:")[0] for name in named)


def test_a_direction_needs_a_curriculum_and_a_curriculum_an_order_that_keeps_it() -> None:
    assert "no" in refuse(data={"mixture": {"descending": True}})
    assert "data.order: windowed" in refuse(data={"mixture": {"curriculum": "length"}})
    check_recipe(make_recipe(data={"mixture": {"curriculum": "length", "descending": True}, "order": "windowed"}))


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ({"train": two({"weight": 1.0}, {"weight": 1.0})}, "weight (data.train)"),
        ({"train": two({"epochs": 2.0}, {})}, "epochs (data.train)"),
        ({"mixture": {"temperature": 2.0}}, "data.mixture.temperature"),
        ({"mixture": {"balance_by": "x"}}, "data.mixture.balance_by"),
        ({"mixture": {"curriculum": "length"}}, "data.mixture.curriculum"),
        ({"rules": [{"rule": "exact_duplicates"}]}, "rule exact_duplicates"),
        ({"rules": [{"rule": "near_duplicates"}]}, "rule near_duplicates"),
        ({"rules": [{"rule": "leakage"}]}, "rule leakage"),
        ({"rules": [{"rule": "contamination", "files": ["b.jsonl"]}]}, "rule contamination"),
        ({"rules": [{"rule": "conflicts"}]}, "rule conflicts"),
    ],
)
def test_a_stream_refuses_by_name_what_needs_the_whole_data(data: dict[str, Any], name: str) -> None:
    assert f"got: {name}" in refuse(data={**STREAM, **data}, train={"max_steps": 5})


def test_a_stream_needs_a_length_windows_and_held_out_files() -> None:
    assert "train.max_steps" in refuse(data=STREAM)
    assert "data.order: windowed" in refuse(data={"mode": "stream"}, train={"max_steps": 5})
    assert "data.eval" in refuse(data={**STREAM, "eval_fraction": 0.1}, train={"max_steps": 5})
    rules = [{"rule": "normalise"}, {"rule": "length"}, {"rule": "noise"}]
    allowed = {**STREAM, "eval": "held.jsonl", "rules": rules, "mixture": {"weight_column": "weight"}}
    check_recipe(make_recipe(data=allowed, train={"max_steps": 5}))
