"""Weights, groups and orders from columns of the data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raysft.data.prepare.encode import EncodedBatch, EncodeStage, encode_task
from raysft.data.read.sources import expand, plan_reads
from raysft.errors import DataError


def encoded(path: Path, stage: EncodeStage) -> list[EncodedBatch]:
    files = expand([str(path)], columns=stage.data.columns)
    return [batch for task in plan_reads(files) for batch in encode_task(task, stage)]


def test_columns_of_the_mixture(make_stage, tmp_path):
    path = tmp_path / "a.jsonl"
    records = [
        {"instruction": f"q{i}", "output": "a", "topic": topic, "hard": hard, "w": weight}
        for i, (topic, hard, weight) in enumerate([("x", 3, 0.5), ("y", 1.5, 2), (None, None, 1)])
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    mixture = {"balance_by": "topic", "curriculum": "hard", "weight_column": "w"}
    (batch,) = encoded(path, make_stage(path, mixture=mixture))
    rows = batch.samples.to_pylist()
    assert [(row["group"], row["value"], row["weight"]) for row in rows] == [
        ("x", 3.0, 0.5),
        ("y", 1.5, 2.0),
        (None, None, 1.0),
    ]
    records[1]["w"] = "much"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    with pytest.raises(DataError, match="weight_column: w holds no weight"):
        encoded(path, make_stage(path, mixture=mixture))


def test_numbers_of_a_csv_file_are_numbers(make_stage, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("instruction,output,hard,w\nq0,a,9,2\nq1,a,1.5,0.5\nq2,a,,\n")
    mixture = {"curriculum": "hard", "weight_column": "w"}
    (batch,) = encoded(path, make_stage(path, mixture=mixture))
    assert batch.samples.column("value").to_pylist() == [9.0, 1.5, None]
    assert batch.samples.column("weight").to_pylist() == [2.0, 0.5, 1.0]
    assert batch.notes[0]["weighted"]["w"]["count"] == 3
    path.write_text("instruction,output,hard,w\nq0,a,much,2\n")
    with pytest.raises(DataError, match="curriculum: hard holds no number"):
        encoded(path, make_stage(path, mixture=mixture))
