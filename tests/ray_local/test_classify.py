"""Classification through Ray: a small encoder, what the report says of it, and what plain transformers says."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from small import make_recipe
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from raysft.data.store.parts import TokenStore
from raysft.errors import DataError
from raysft.evaluate.classified import text_key
from raysft.recipe.change import change
from raysft.run.classified import read_labels
from raysft.run.run import run_training
from raysft.run.rundir import fingerprints_of
from raysft.train.history.records import read_metrics

ENCODER = {
    "model_type": "bert",
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}


def write_texts(path: Path, count: int) -> list[dict[str, str]]:
    """Texts of the letters of their label, but for every tenth, and some without a label that the recipe knows."""
    draw = random.Random(0)
    letters = {"low": "abc", "high": "xyz"}
    records = []
    for index in range(count):
        label = draw.choice([*letters])
        text = "".join(draw.choice(letters[label] + "mno") for _ in range(20))
        records.append({"text": text, "label": label if index % 20 else "odd"})
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return records


def test_the_report_says_what_plain_transformers_says(ray_cluster: None, tmp_path: Path) -> None:
    records = write_texts(tmp_path / "texts.jsonl", 200)
    recipe = change(
        make_recipe(tmp_path, train__max_steps=25, cluster__workers=2, parallel__zero=2),
        {
            "model.config": ENCODER,
            "objective": {"kind": "classify", "labels": ["low", "high"]},
            "data.train": str(tmp_path / "texts.jsonl"),
            "data.eval_fraction": 0.3,
            "data.packing": False,
            "optimizer.learning_rate": 3e-3,
            "train.rows_per_step": 4,
            "evaluate.every_steps": 25,
        },
    )
    with pytest.raises(DataError, match="a label has no example") as found:
        run_training(change(recipe, {"name": "third", "objective.labels": ["low", "high", "middle"]}))
    assert "'middle'" in found.value.got
    result = run_training(recipe)
    assert result.before is None
    assert result.after is not None
    record = result.after["held_out"]
    model = AutoModelForSequenceClassification.from_pretrained(result.exports[0], dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(result.exports[0])
    known = {record["text"]: record["label"] for record in records}
    stores = [path.parent for path in (tmp_path / "storage" / "tokens").glob("*/prompts.jsonl")]
    right = total = 0
    for store in map(TokenStore.open, map(str, stores[:1])):
        for row in store.read_rows(range(store.num_rows)):
            start = 0
            for length in row.segment_fields["length"].tolist():
                ids = torch.tensor(row.token_fields["input_ids"][start : start + length].tolist())[None]
                start += length
                with torch.no_grad():
                    told = model.config.id2label[int(model(input_ids=ids).logits.argmax())]
                text = tokenizer.decode(ids[0], skip_special_tokens=True)
                right, total = right + (told == known[text]), total + 1
    assert record["metrics"]["label_accuracy"]["count"] == total
    assert record["metrics"]["label_accuracy"]["value"] == pytest.approx(right / total)
    assert right / total > 0.8
    assert sum(map(sum, record["classes"]["confusion"])) == total
    assert sum(one["count"] for one in record["classes"]["calibration"]) == total
    *_, last = (line for line in read_metrics(result.run) if line["kind"] == "eval")
    assert last["step"] == 25
    measured = {**last["metrics"], "label_accuracy": last["metrics"]["accuracy"]}
    for name in ("label_accuracy", "macro_f1", "ece", "brier"):  # by two workers in training, as of the export
        assert measured[name] == pytest.approx(record["metrics"][name]["value"], abs=1e-5)
    told = read_labels(result.run, fingerprints_of(result.run) or {})["held_out"]
    assert {*told["texts"]} <= {text_key(record["text"]) for record in records}
    assert sum(a == b for a, b in zip(told["known"], told["told"], strict=True)) == right
    page = Path(result.report).read_text()
    assert "Labels of held-out texts" in page
    assert "came true, %" in page
    assert "unknown_label" in page
