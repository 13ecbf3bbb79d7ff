"""Stores of texts that match: each atom whole in one row, its texts in their order; counts and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tasks_here import Tasks

from raysft.data.feed.collate import collate
from raysft.data.prepare import prepare as prepare_module
from raysft.data.prepare.prepare import prepare
from raysft.data.report.preview import certificate
from raysft.data.store.parts import TokenStore
from raysft.errors import DataError
from raysft.recipe.change import change
from raysft.recipe.schema import Recipe
from raysft.recipe.sections.data import DataSection
from raysft.recipe.sections.embedding_objectives import ContrastiveObjective
from raysft.recipe.sections.model import ModelSection


@pytest.fixture
def recipe(tmp_path: Path, tokenizers: Any, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    monkeypatch.setattr(prepare_module.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(prepare_module, "on_ray", Tasks())
    tokenizers["chatml"].save_pretrained(tmp_path / "tok")
    return Recipe(
        name="r",
        storage=str(tmp_path / "storage"),
        objective=ContrastiveObjective(kind="contrastive"),
        model=ModelSection(source="random", tokenizer=str(tmp_path / "tok")),
        data=DataSection(train=(str(tmp_path / "a.jsonl"),), max_tokens=96, eval_fraction=0.2),
    )


def write(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.mark.parametrize("packing", [True, False])
def test_an_atom_is_a_query_and_its_texts(recipe: Recipe, tokenizers: Any, tmp_path: Path, packing: bool) -> None:
    end = tokenizers["chatml"].eos_token
    texts = {f"query {i}": [f"text {i}", *(f"wrong {i} {j}" for j in range(i % 3))] for i in range(40)}
    records = [{"anchor": query, "positive": own[0], "negatives": own[1:]} for query, own in texts.items()]
    write(tmp_path / "a.jsonl", [*records, {"anchor": "same", "positive": "same"}])
    prepared = prepare(recipe)
    found: dict[str, list[str]] = {}
    for store in (TokenStore.open(location) for location in (prepared.train, prepared.eval) if location):
        for number in range(store.num_rows):
            batch = collate(store.read_rows([number]), number, packing=packing)
            told = [
                tokenizers["chatml"].decode(batch.input_ids[batch.segment_of == s]) for s in range(len(batch.atom_of))
            ]
            for atom in range(int(batch.atom_of.max()) + 1):
                query, *own = (text for text, of in zip(told, batch.atom_of, strict=True) if of == atom)
                found[query.removesuffix(end)] = [text.removesuffix(end) for text in own]
    assert found == texts
    lines = "\n".join(certificate(prepared.train_manifest))
    pairs = prepared.train_manifest["counts"]["examples"]
    assert 20 < pairs < 40
    wrong = prepared.train_manifest["counts"]["matched_texts"] - 2 * pairs
    assert f"beside them {wrong} that do not" in lines
    assert 0 < wrong < 40
    assert "refused 1 x same_texts" in lines


def test_a_step_of_one_pair_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    pair = {"anchor": "a", "positive": "b"}
    alone = change(recipe, {"data.eval_fraction": 0.0})
    write(tmp_path / "a.jsonl", [pair])
    with pytest.raises(DataError, match="nothing but the text that matches"):
        prepare(alone)
    write(tmp_path / "a.jsonl", [{**pair, "negative": "c"}])
    assert prepare(alone).train
