"""Which changes make another store: all that change its rows, and nothing else."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from raysft.data.prepare.fingerprint import check_unchanged, describe_sides
from raysft.errors import DataError
from raysft.recipe.load import parse_recipe


@pytest.fixture
def prints(tokenizers: Any, tmp_path: Path):
    """(train, eval or None) fingerprints of a recipe with some other fields."""
    tokenizers["chatml"].save_pretrained(tmp_path / "tok")
    record = json.dumps({"instruction": "q", "output": "a"}) + "\n"
    for count, name in enumerate(("a.jsonl", "b.jsonl", "held.jsonl"), 3):
        (tmp_path / name).write_text(record * count)

    def make(seed: int = 0, **data: Any) -> tuple[str, str | None]:
        fields = {"train": str(tmp_path / "a.jsonl"), "template": "chatml", **data}
        model = {"source": "random", "config": {"model_type": "llama"}, "tokenizer": str(tmp_path / "tok")}
        recipe = parse_recipe(
            {"name": "r", "storage": str(tmp_path / "storage"), "seed": seed, "model": model, "data": fields}
        )
        sides = {side.name: side.fingerprint for side in describe_sides(recipe)}
        return sides["train"], sides.get("eval")

    return make


def test_what_changes_rows_changes_the_fingerprint(prints, tmp_path):
    a, b = str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")
    changes: list[dict[str, Any]] = [
        {},
        {"train": b},
        {"train": [a, b]},
        {"train": [{"path": a, "weight": 1.0}, {"path": b, "weight": 2.0}]},
        {"train": [{"path": a, "epochs": 2.0}]},
        {"max_tokens": 64},
        {"train_on": "last"},
        {"over_long": "split"},
        {"template": "zephyr"},
        {"columns": {"system": "q"}},
        {"format": "alpaca"},
        {"eval_fraction": 0.1},
        {"rules": [{"rule": "normalise"}]},
        {"rules": [{"rule": "normalise", "form": "NFKC"}]},
        {"rules": [{"rule": "exact_duplicates"}]},
        {"mixture": {"curriculum": "length"}, "order": "windowed"},
    ]
    found = [prints(**change)[0] for change in changes]
    assert len(set(found)) == len(changes)
    assert all(len(fingerprint) == 64 for fingerprint in found)


def test_what_does_not_change_rows_does_not(prints, tmp_path):
    plain = prints()
    assert prints(seed=7) == plain, "nothing here is random"
    assert prints(order="windowed") == plain, "the order is the step plan's"
    assert prints(packing=False) == plain
    assert prints(eval=str(tmp_path / "held.jsonl"))[0] == plain[0]
    noisy = [{"rule": "noise"}]
    assert prints(rules=noisy) != prints(rules=noisy, seed=7)


def test_held_out_data_is_neither_mixed_nor_augmented_nor_compared(prints, tmp_path):
    eval_ = {"eval": str(tmp_path / "held.jsonl")}
    plain = prints(**eval_)[1]
    assert prints(**eval_, rules=[{"rule": "noise"}, {"rule": "exact_duplicates"}])[1] == plain
    assert prints(**eval_, mixture={"curriculum": "length"}, order="windowed")[1] == plain
    assert prints(**eval_, rules=[{"rule": "normalise"}])[1] != plain
    leakage = {"rules": [{"rule": "leakage"}]}
    before = prints(**eval_, **leakage)[0]
    (tmp_path / "held.jsonl").write_text(json.dumps({"instruction": "other", "output": "a"}) + "\n")
    assert prints(**eval_, **leakage)[0] != before, "leakage compares with the held-out files"


def test_a_stream_looks_at_all_of_its_files(prints, tmp_path):
    """Also where a file is replaced by another of its size and time, and differs in the middle only."""
    stream = {"mode": "stream", "order": "windowed"}
    path = tmp_path / "a.jsonl"
    lines = [json.dumps({"instruction": f"q{i}", "output": "a" * 100}) + "\n" for i in range(30_000)]
    path.write_text("".join(lines))
    os.utime(path, ns=(10**18, 10**18))
    before = prints(**stream)
    assert prints(**stream) == before
    lines[15_000] = lines[15_000].replace("q", "p")
    path.write_text("".join(lines))
    os.utime(path, ns=(10**18, 10**18))
    assert prints(**stream) != before


def test_a_store_is_not_published_when_what_it_is_made_with_changes(tokenizers, tmp_path):
    tokenizers["chatml"].save_pretrained(tmp_path / "tok")
    words, own = tmp_path / "words.txt", tmp_path / "own.jinja"
    words.write_text("bad\n")
    own.write_text(tokenizers["chatml"].chat_template)
    (tmp_path / "a.jsonl").write_text(json.dumps({"instruction": "q", "output": "a"}) + "\n")
    data = {
        "train": str(tmp_path / "a.jsonl"),
        "template": str(own),
        "rules": [{"rule": "harmful_words", "lists": {"own": str(words)}}],
    }
    model = {"source": "random", "config": {"model_type": "llama"}, "tokenizer": str(tmp_path / "tok")}
    recipe = parse_recipe({"name": "r", "storage": str(tmp_path / "s"), "model": model, "data": data})
    sides = describe_sides(recipe)
    check_unchanged(recipe, sides)
    for path, text, name in [
        (words, "worse\n", "rules"),
        (own, own.read_text() + " ", "template"),
        (tmp_path / "a.jsonl", json.dumps({"instruction": "Q", "output": "a"}) + "\n", "a.jsonl"),
        (tmp_path / "tok" / "tokenizer.json", None, "tokenizer"),
    ]:
        before = path.read_text()
        path.write_text(text or before.replace('"<|im_end|>"', '"<|im_over|>"'))
        with pytest.raises(DataError, match=rf"changed(.|\n)*{name}|{name} changed"):
            check_unchanged(recipe, sides)
        path.write_text(before)
        sides = describe_sides(recipe)
