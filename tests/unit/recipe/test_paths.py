"""Local paths become absolute; addresses and names stay."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes import recipe_content

from raysft.recipe.load import load_recipe, parse_recipe
from raysft.recipe.paths import with_absolute_paths


def test_every_local_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = {
        "train": [
            "a.jsonl",
            "s3://b/a.jsonl",
            {"path": ["~/b", "hf://datasets/x/y", "/c"], "name": "own", "weight": 2},
        ],
        "eval": "e.jsonl",
        "rules": [
            {"rule": "harmful_words", "lists": {"war": "war.txt", "drugs": "gs://b/drugs.txt"}},
            {"rule": "contamination", "files": ["mmlu/*.csv", "s3://b/c.jsonl"], "ngram": 8},
            {"rule": "synonyms", "table": "../table.tsv"},
            {"rule": "length"},
        ],
    }
    recipe = with_absolute_paths(parse_recipe(recipe_content(data=data)))
    there, home = str(tmp_path), str(Path.home())
    strings, own = recipe.data.train[:2], recipe.data.sources[2]
    assert strings == (f"{there}/a.jsonl", "s3://b/a.jsonl")
    assert own.path == (f"{home}/b", "hf://datasets/x/y", "/c")
    assert (own.name, own.weight) == ("own", 2)
    assert recipe.data.eval == (f"{there}/e.jsonl",)
    words, benchmark, synonyms, length = [rule.model_dump() for rule in recipe.data.rules]
    assert words["lists"] == {"war": f"{there}/war.txt", "drugs": "gs://b/drugs.txt"}
    assert (benchmark["files"], benchmark["ngram"]) == ((f"{there}/mmlu/*.csv", "s3://b/c.jsonl"), 8)
    assert synonyms["table"] == f"{there}/../table.tsv"
    assert length["rule"] == "length"
    assert with_absolute_paths(recipe) == recipe


def test_a_folder_called_like_a_template_is_not_taken_for_one(tmp_path, monkeypatch):
    """`raysft tokenizer train --out tokenizer` makes a folder of the name of the default template."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "own.jinja").write_text("x")
    (tmp_path / "r.yaml").write_text(
        "name: r\nmodel: {source: random, tokenizer: tokenizer, config: {model_type: a}}\ndata: {train: a.jsonl}\n"
    )
    recipe = with_absolute_paths(load_recipe("r.yaml"))
    assert recipe.data.template == "tokenizer"
    assert recipe.model.tokenizer == str(tmp_path / "tokenizer")
    recipe = with_absolute_paths(load_recipe("r.yaml", ["data.template=own.jinja"]))
    assert recipe.data.template == str(tmp_path / "own.jinja")
