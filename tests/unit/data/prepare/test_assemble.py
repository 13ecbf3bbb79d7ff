"""From shards to the samples of an epoch: columns that the mixture asks for, and what the certificate is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raysft.data.prepare.assemble import ChosenSamples, choose
from raysft.data.prepare.fingerprint import describe_sides
from raysft.data.prepare.write_shards import write_shard
from raysft.data.read.sources import plan_reads
from raysft.data.report.preview import certificate
from raysft.data.rules.whole_data import Selection
from raysft.data.store.shards import shard_path
from raysft.errors import DataError
from raysft.recipe.load import parse_recipe


@pytest.fixture
def chosen(tokenizers: Any, tmp_path: Path):
    tokenizers["chatml"].save_pretrained(tmp_path / "tok")
    (tmp_path / "a.csv").write_text("instruction,output,hard,w,mood\nq0,a,9,2,x\nq1,a,1.5,0.5,\nq2,a,3,1,y\n")

    def make(**data: Any) -> ChosenSamples:
        fields = {"train": str(tmp_path / "a.csv"), "template": "chatml", "order": "windowed", **data}
        model = {"source": "random", "config": {"model_type": "llama"}, "tokenizer": str(tmp_path / "tok")}
        recipe = parse_recipe({"name": "r", "storage": str(tmp_path / "s"), "model": model, "data": fields})
        side = describe_sides(recipe)[0]
        tasks = plan_reads(side.files)
        summaries = [write_shard(str(tmp_path / "work"), i, task, side.stage) for i, task in enumerate(tasks)]
        locations = [shard_path(str(tmp_path / "work"), i) for i in range(len(tasks))]
        return choose(recipe, side, locations, tasks, summaries, Selection.none())

    return make


def test_a_curriculum_by_a_column_of_a_csv_file(chosen) -> None:
    found = chosen(mixture={"curriculum": "hard", "weight_column": "w"})
    assert found.rows.tolist() == [1, 2, 0]
    manifest = {"counts": {**found.counts, "examples": 3}, "max_tokens": 1024, "refusals": {}}
    told = [line for line in certificate(manifest) if "reads" in line]
    assert told == ["nothing reads `mood` (2 of 3 records, 66.7%), e.g. 'x'; if that is right: data.ignore_columns"]


@pytest.mark.parametrize("rule", ["curriculum", "weight_column", "balance_by"])
def test_a_rule_whose_column_no_record_has(chosen, rule: str) -> None:
    with pytest.raises(DataError, match="no record has the column 'nowhere'"):
        chosen(mixture={rule: "nowhere"})
