"""Reference columns of a recipe: made once, found again, gone on with after a kill, and mended. Tasks run here.

The numbers are compared with transformers' own forward of each answer alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import make_recipe
from tasks_here import Tasks

from raysft.data.prepare import prepare as prepare_module
from raysft.data.prepare.prepare import prepare
from raysft.data.prepare.prepared import Prepared
from raysft.data.store.parts import TokenStore
from raysft.data.text.tokenizer import recipe_tokenizer
from raysft.model.load import load_model, rows_for
from raysft.recipe.change import change
from raysft.recipe.schema import Recipe
from raysft.run import evaluation_tasks, reference
from raysft.run.reference import ReferenceColumns, find_or_make


@pytest.fixture(scope="module")
def patched() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare_module.ray, "is_initialized", lambda: True)
        patch.setattr(prepare_module, "on_ray", Tasks())
        patch.setattr(prepare_module, "WINDOW", 20)
        yield


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> Tasks:
    tasks = Tasks()
    monkeypatch.setattr(reference, "on_ray", tasks)
    monkeypatch.setattr(evaluation_tasks, "worker_runtime", lambda section: {})
    return tasks


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, patched: None) -> tuple[Recipe, Prepared]:
    folder = tmp_path_factory.mktemp("reference")
    recipe = make_recipe(folder, count=60)
    lines = [
        {"prompt": f"word {i}", "chosen": f"good {i}" * (1 + i % 3), "rejected": f"worse {i * 7}"} for i in range(60)
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    fields = {"objective": {"kind": "dpo"}, "data.train": str(folder / "pairs.jsonl"), "data.eval_fraction": 0.2}
    recipe = change(recipe, fields)
    return recipe, prepare(recipe)


def numbers(store: str, columns: str) -> list[tuple[list[int], list[float], float]]:
    """(ids, target, column) of every sample."""
    opened, found = TokenStore.open(store, columns), []
    for row in opened.read_rows(range(opened.num_rows)):
        ends = np.cumsum(row.segment_fields["length"])[:-1]
        ids = np.split(row.token_fields["input_ids"], ends)
        targets = np.split(row.token_fields["target"], ends)
        values = row.segment_fields["reference_log_prob"].tolist()
        found += [(i.tolist(), t.tolist(), value) for i, t, value in zip(ids, targets, values, strict=True)]
    return found


def test_both_stores_get_what_the_untrained_model_says_and_get_it_once(made: Any, tasks: Tasks) -> None:
    recipe, prepared = made
    found = find_or_make(recipe, prepared)
    parts = len(prepared.train_manifest["parts"]) + len(prepared.eval_manifest["parts"])
    assert len(tasks.done) == parts > 3
    model = load_model(recipe, vocab_size=rows_for(recipe_tokenizer(recipe))).eval()
    model.set_attn_implementation("eager")
    samples = [*numbers(prepared.train, found.train), *numbers(prepared.eval, found.evaluated["held_out"])]
    assert len(samples) == 120
    for ids, target, value in samples:
        with torch.no_grad():
            log_probs = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
        expected = sum(float(log_probs[t - 1, ids[t]]) for t in range(1, len(ids)) if target[t])
        assert value == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert find_or_make(recipe, prepared) == found
    assert len(tasks.done) == parts, "they are made once"
    left = sorted(str(path.relative_to(found.train)) for path in Path(found.train).rglob("*"))
    assert left == ["manifest.json", *(f"part-{i:05d}.parquet" for i in range(len(prepared.train_manifest["parts"])))]


def test_a_killed_driver_goes_on_where_it_was_and_damage_is_mended(made: Any, tasks: Tasks) -> None:
    recipe, prepared = made
    other = change(recipe, {"seed": 5})  # other weights, so other columns
    total = len(prepared.train_manifest["parts"])
    tasks.left = 1
    with pytest.raises(KeyboardInterrupt):
        find_or_make(other, prepared)
    tasks.left, tasks.done = 1000, []
    found = find_or_make(other, prepared)
    assert tasks.done[: total - 1] == list(range(1, total))
    assert found.train != find_or_make(recipe, prepared).train
    whole = numbers(prepared.train, found.train)
    tasks.done = []
    part = Path(found.train, "part-00001.parquet")
    part.write_bytes(part.read_bytes()[:-9])
    assert find_or_make(other, prepared) == found
    assert tasks.done == [1], "the other parts are whole"
    assert numbers(prepared.train, found.train) == whole


@pytest.mark.parametrize(
    ("changes", "is_other"),
    [
        ({"train.precision": "bf16"}, True),
        ({"model.config": {"model_type": "llama", "hidden_size": 32}}, True),
        ({"optimizer.learning_rate": 0.5, "objective": {"kind": "dpo", "beta": 0.7}}, False),
        ({"train.micro_batch_rows": 4, "name": "another"}, False),
    ],
)
def test_other_columns_where_the_numbers_would_be_others(
    made: Any, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], is_other: bool
) -> None:
    recipe, prepared = made
    where: list[str] = []

    def found(recipe: Recipe, store: str, manifest: Any, progress: object) -> str:
        inputs = reference.reference_inputs(recipe, reference.base_identity(recipe))
        where.append(reference.columns_location(store, manifest, reference.reference_columns(recipe), inputs))
        return where[-1]

    monkeypatch.setattr(reference, "_of_store", found)
    find_or_make(recipe, prepared)
    find_or_make(change(recipe, changes), prepared)
    assert (where[0] != where[2]) is is_other


def test_an_objective_without_columns_makes_none(made: Any, tasks: Tasks) -> None:
    recipe, prepared = made
    assert find_or_make(change(recipe, {"objective": {"kind": "sft"}}), prepared) == ReferenceColumns()
    assert not tasks.done


def test_the_guard_against_forgetting_has_columns_of_its_own(made: Any, tasks: Tasks) -> None:
    recipe, prepared = made
    guarded = change(recipe, {"objective": {"kind": "sft", "kl_weight": 0.1, "kl_top_k": 4}})
    found = find_or_make(guarded, prepared)
    row = TokenStore.open(prepared.train, found.train).read_rows([0])[0]
    assert row.token_fields["reference_ids"].shape == (row.num_tokens, 4)
    assert (np.exp(row.token_fields["reference_log_probs"].astype(np.float64)).sum(axis=1)[1:] > 0).all()
    assert (
        find_or_make(change(guarded, {"objective": {"kind": "sft", "kl_weight": 0.9, "kl_top_k": 4}}), prepared)
        == found
    )
