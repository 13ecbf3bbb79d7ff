"""Stores of texts with labels: each text has its own, whatever row it lies in; counts, refusals, fingerprints."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tasks_here import Tasks

from raysft.data.feed.collate import collate
from raysft.data.prepare import prepare as prepare_module
from raysft.data.prepare.fingerprint import describe_sides
from raysft.data.prepare.prepare import prepare
from raysft.data.report.preview import certificate
from raysft.data.store.parts import TokenStore
from raysft.errors import DataError
from raysft.objectives.module import make_objective
from raysft.recipe.change import change
from raysft.recipe.columns import Classes
from raysft.recipe.schema import Recipe
from raysft.recipe.sections.data import DataSection
from raysft.recipe.sections.head_objectives import ClassifyObjective
from raysft.recipe.sections.model import ModelSection

LABELS = ("red", "green", "blue")


def write_texts(path: Path, several: bool) -> dict[str, Any]:
    """{text: its labels}."""
    draw = random.Random(1)
    known = {}
    for index in range(50):
        labels = draw.sample(LABELS, draw.randint(0, 3)) if several else [draw.choice(LABELS)]
        known[f"text {index} " + "x" * draw.randint(0, 9)] = labels
    lines = [{"text": text, "label": own if several else own[0]} for text, own in known.items()]
    path.write_text("".join(json.dumps(line) + "\n" for line in [*lines, {"text": "odd", "label": "eggs"}]))
    return known


@pytest.fixture
def recipe(tmp_path: Path, tokenizers: Any, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    monkeypatch.setattr(prepare_module.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(prepare_module, "on_ray", Tasks())
    tokenizers["chatml"].save_pretrained(tmp_path / "tok")
    return Recipe(
        name="r",
        storage=str(tmp_path / "storage"),
        objective=ClassifyObjective(kind="classify", labels=LABELS),
        model=ModelSection(source="random", tokenizer=str(tmp_path / "tok")),
        data=DataSection(train=(str(tmp_path / "a.jsonl"),), max_tokens=64, eval_fraction=0.2),
    )


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("several", [False, True])
def test_each_text_has_its_own_labels(
    recipe: Recipe, tokenizers: Any, tmp_path: Path, several: bool, packing: bool
) -> None:
    known, tokenizer = write_texts(tmp_path / "a.jsonl", several), tokenizers["chatml"]
    recipe = change(recipe, {"objective.multi_label": several})
    prepared, field = prepare(recipe), Classes(LABELS, several).field
    found = {}
    for location in (prepared.train, prepared.eval):
        assert location is not None
        store = TokenStore.open(location)
        batch = collate(store.read_rows(range(store.num_rows)), 0, packing=packing, fields=(field,))
        values = batch.fields[field.name]
        assert values.shape == ((len(batch.atom_of), 3) if several else (len(batch.atom_of),))
        for number, value in enumerate(values):
            text = tokenizer.decode(batch.input_ids[batch.segment_of == number], skip_special_tokens=True)
            found[text] = [LABELS[i] for i in np.flatnonzero(value)] if several else [LABELS[int(value)]]
    assert found == {text: sorted(own, key=LABELS.index) for text, own in known.items()}
    counts = [manifest["counts"] for manifest in (prepared.train_manifest, prepared.eval_manifest or {})]
    told = {label: sum(one["categories"]["labels"][label] for one in counts) for label in LABELS}
    assert told == {label: sum(label in own for own in known.values()) for label in LABELS}
    assert counts[0]["refused"] | counts[1]["refused"] == {"unknown_label": 1}
    lines = certificate(prepared.train_manifest)
    assert any(line.startswith("labels: blue ") for line in lines)
    assert not any("tokens trained" in line for line in lines), "a text is learnt as a whole"


def test_other_labels_are_another_store_and_one_without_a_text_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    write_texts(tmp_path / "a.jsonl", False)
    prints = {
        describe_sides(change(recipe, changes))[0].fingerprint
        for changes in ({}, {"objective.labels": LABELS[::-1]}, {"objective.multi_label": True}, {"seed": 5})
    }
    assert len(prints) == 3, "the seed draws nothing here"
    with pytest.raises(DataError, match="no example") as error:
        prepare(change(recipe, {"objective.labels": (*LABELS, "pink")}))
    assert "'pink'" in error.value.got


def test_margins_of_pairs_are_another_store(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": "a", "chosen": "b", "rejected": "c"}) + "\n")
    plain = change(recipe, {"objective": {"kind": "reward"}, "data.eval_fraction": 0.0})
    prints = {describe_sides(change(plain, {"objective.margin_weight": w}))[0].fingerprint for w in (0.0, 1.0, 2.0)}
    assert len(prints) == 2


@pytest.mark.parametrize("packing", [True, False])
def test_each_answer_of_a_list_has_its_own_score(
    recipe: Recipe, tokenizers: Any, tmp_path: Path, packing: bool
) -> None:
    draw, known, lines = random.Random(2), {}, []
    for question in range(40):
        answers = {f"answer {question} {i}" + "y" * draw.randint(0, 6): draw.randint(-3, 9) / 2 for i in range(3)}
        known |= answers
        lines.append({"prompt": f"q {question}?", "responses": [*answers], "scores": [*answers.values()]})
    wrong = {"prompt": "q", "responses": ["a", "b", "a"], "scores": [1, 2, 3]}
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*lines, wrong]))
    changes = {"objective": {"kind": "reward", "compare": "pairs"}, "data.max_tokens": 200, "data.over_long": "drop"}
    prepared, objective = prepare(change(recipe, changes)), make_objective(change(recipe, changes))
    found = {}
    for location in (prepared.train, prepared.eval):
        assert location is not None
        store = TokenStore.open(location)
        batch = collate(store.read_rows(range(store.num_rows)), 0, packing=packing, fields=objective.columns)
        scores = batch.fields["answer_score"]
        for number, (score, atom) in enumerate(zip(scores, batch.atom_of, strict=True)):
            text = tokenizers["chatml"].decode(batch.input_ids[batch.segment_of == number])
            found[text.split("assistant\n")[1].removesuffix("<|im_end|>\n")] = float(score)
            if number and atom == batch.atom_of[number - 1]:
                assert score <= scores[number - 1], "the best first"
    alike = {f"answer {q} " for q, line in enumerate(lines) if len(set(line["scores"])) == 1}
    assert found == {text: score for text, score in known.items() if not text.startswith(tuple(alike))}
    counts = [manifest["counts"] for manifest in (prepared.train_manifest, prepared.eval_manifest or {})]
    refused = sum(sum(one["refused"].values()) for one in counts)
    assert refused == 1 + len(alike)
    assert any("all answers to one prompt" in line for line in certificate(prepared.train_manifest))
