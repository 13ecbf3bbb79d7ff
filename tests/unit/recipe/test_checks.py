"""Rules over several fields of data: mixtures that contradict themselves, and what a stream cannot do."""

from __future__ import annotations

from typing import Any

import pytest
from fakes import make_recipe
from refusals import refuse

from raysft.recipe.checks import check_recipe
from raysft.recipe.load import parse_recipe

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


def test_noise_on_embeddings_is_of_samples_alone() -> None:
    assert "virtual tokens" in refuse(method={"kind": "prefix"}, train={"embedding_noise": 5.0})
    assert "moves the embeddings" in refuse(train={"embedding_noise": 5.0, "adversarial_epsilon": 1.0})
    assert "moves the embeddings" in refuse(method={"kind": "prefix"}, train={"adversarial_epsilon": 1.0})
    check_recipe(make_recipe(method={"kind": "lora"}, train={"embedding_noise": 5.0}))


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


def test_an_objective_takes_what_it_looks_at() -> None:
    assert "kl_weight" in refuse(objective={"kl_top_k": 8})
    assert "loss: ipo" in refuse(objective={"kind": "dpo", "loss": "ipo", "label_smoothing": 0.1})
    assert "label_smoothing: 0.1" in refuse(objective={"kind": "cpo", "loss": "robust"})
    check_recipe(make_recipe(objective={"kind": "cpo", "loss": "robust", "label_smoothing": 0.1}))
    assert "objective.teachers" in refuse(objective="distill")
    teachers = {"kind": "distill", "teachers": ["a", "b"]}
    assert "2 weights" in refuse(objective={**teachers, "teacher_weights": [1.0]})
    check_recipe(make_recipe(objective={**teachers, "teacher_weights": [1.0, 3.0]}))
    assert "teacher_draws: 16" in refuse(objective={**teachers, "teacher_draws": 64})
    assert "divergence: js" in refuse(objective={**teachers, "teacher_draws": 16, "divergence": "js"})
    check_recipe(make_recipe(objective={**teachers, "teacher_draws": 16}))
    assert "no weight_column" in refuse(objective="dpo", data={"mixture": {"weight_column": "score"}})
    check_recipe(make_recipe(objective={"kl_top_k": 8, "kl_weight": 0.1}))
    check_recipe(parse_recipe(make_recipe().model_dump(mode="json")))  # as a trial gets it: every field is named
    check_recipe(make_recipe(objective="sft", data={"mixture": {"weight_column": "score"}}))
    check_recipe(make_recipe(objective="dpo"))


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


def test_host_memory_holds_what_zero_partitions() -> None:
    for parallel in ({"zero": 0}, {"zero": 1, "pipeline": 2}):
        told = refuse(parallel=parallel | {"offload": "cpu"}, cluster={"workers": 2})
        assert "host memory" in told
        assert "parallel.zero: 1, 2 or 3" in told
    check_recipe(make_recipe(parallel={"zero": 3, "offload": "cpu"}))


def test_communication_that_would_be_ignored_is_refused() -> None:
    piped = {"zero": 1, "pipeline": 2}
    assert "after all passes" in refuse(parallel=piped | {"overlap": True}, cluster={"workers": 2})
    assert "after all passes" in refuse(parallel=piped, train={"reduce_precision": "bf16"}, cluster={"workers": 2})
    for zero, shards in ((2, 2), (3, 3)):
        assert "second copy" in refuse(
            parallel={"zero": zero, "secondary_shards": shards}, cluster={"workers": 4}, train={"rows_per_step": 8}
        )
    check_recipe(make_recipe(parallel={"zero": 3, "secondary_shards": 2, "overlap": True}, cluster={"workers": 4}))
