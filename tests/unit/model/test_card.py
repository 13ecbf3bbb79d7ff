"""The words of a model card: what it says of the base, of results and of how to load, and nothing of the machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from fakes import make_recipe

from raysft.model.card import CardFacts, model_card
from raysft.recipe.schema import Recipe

FINGERPRINTS = {"mathematics": "m" * 16, "data": "d" * 16}


def card(recipe: Recipe, part: str = "merged", **results: Any) -> tuple[dict[str, Any], str]:
    """(front matter, body)."""
    measured = [results.get(when, {}) for when in ("before", "after")]
    facts = CardFacts(1234, 5678, 91_011, 1213, FINGERPRINTS, *measured)
    _, front, body = model_card(recipe, facts, part).split("---\n", 2)
    return yaml.safe_load(front), body


def of_base(source: str, **model: Any) -> Recipe:
    return make_recipe(model={"source": source, "config": None, "tokenizer": None, **model})


@pytest.mark.parametrize(
    ("source", "named", "shown"),
    [
        ("org/name", "org/name", "`org/name`"),
        ("gpt2", "gpt2", "`gpt2`"),
        ("run://other", None, "`run://other`"),
        ("/home/anna/secret-project/base", None, "`base` (a local directory)"),
        ("./base", None, "`base` (a local directory)"),
    ],
)
def test_a_hub_id_is_named_and_a_path_is_not(source: str, named: str | None, shown: str) -> None:
    front, body = card(of_base(source))
    assert front.get("base_model") == named
    assert shown in body
    assert "anna" not in body
    assert "secret-project" not in body


def test_a_folder_of_the_name_of_a_hub_id_is_local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "name").mkdir(parents=True)
    front, body = card(of_base("org/name"))
    assert "base_model" not in front
    assert "`name` (a local directory)" in body


def test_a_revision_and_fresh_weights_are_told() -> None:
    assert "`org/name` at `abc123`" in card(of_base("org/name", revision="abc123"))[1]
    front, body = card(make_recipe())
    assert "random weights of type `llama`" in body
    assert "base_model" not in front


def test_results_are_those_that_were_measured() -> None:
    assert "## Results" not in card(make_recipe())[1]
    before = {"loss": {"value": 2.0, "count": 9}, "perplexity": {"value": 7.389, "count": 9}}
    right = {"value": 0.975, "count": 40, "low": 0.871, "high": 0.9956}
    after = {"loss": {"value": 0.5, "count": 9}, "perplexity": {"value": 1.6487, "count": 9}, "exact_match": right}
    dev = {"dev": {"metrics": {"loss": {"value": 0.75, "count": 7}}}}
    ends = {"held_out": {"metrics": after}, **dev}
    _, body = card(make_recipe(), before={"held_out": {"metrics": before}}, after=ends)
    assert "| held-out loss (nats per target token) | 2.0000 | 0.5000 |" in body
    assert "| held-out perplexity | 7.3890 | 1.6487 |" in body
    assert "| exact match of greedy answers | - | 97.5% (87.1% to 99.6%) |" in body
    assert "| dev: loss (nats per target token) | - | 0.7500 |" in body
    assert "## Forgetting" not in body
    guarded = make_recipe(evaluate={"sets": {"dev": {"data": "dev.jsonl", "guard": True}}})
    _, lost = card(guarded, before={"dev": {"metrics": {"loss": {"value": 0.5, "count": 7}}}}, after=ends)
    assert "| dev: loss | 0.5000 | 0.7500 | +0.2500 |" in lost
    _, pairs = card(make_recipe(objective="dpo"), after={"held_out": {"metrics": after, "of_pairs": True}})
    assert "held-out loss of the preferred answers" in pairs


def test_how_it_is_loaded_depends_on_the_part() -> None:
    lora = make_recipe(model={"source": "org/name", "config": None}, method={"kind": "lora", "rank": 4})
    front, body = card(lora, "adapter")
    assert front["library_name"] == "peft"
    assert 'from_pretrained("org/name", dtype="float32")' in body
    assert "The bare adapter of" in body
    front, body = card(lora, "merged")
    assert front["library_name"] == "transformers"
    assert "PeftModel" not in body
    assert "LoRA, rank 4, alpha 32, on all-linear" in body


def test_counts_and_fingerprints() -> None:
    _, body = card(make_recipe())
    for text in ("5,678 samples", "91,011 tokens, 1,213 of them predicted", "1,234 of 8 packed rows", "m" * 16):
        assert text in body
    assert "5,678 pairs" in card(make_recipe(objective="dpo"))[1]


def test_a_name_cannot_break_the_table() -> None:
    recipe = of_base("run://a|b")
    rows = [line for line in card(recipe)[1].splitlines() if line.startswith("| base model")]
    assert rows == ["| base model | `run://a\\|b` |"]
