"""The verbs: what each prints, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import assert_refused, json_lines, overrides, raysft


def test_schema_is_json(capsys) -> None:
    ran = raysft(capsys, "schema")
    assert ran.code == 0
    assert json.loads(ran.out)["properties"]["storage"]["description"]


def test_a_preview_marks_what_is_trained(capsys, recipe: Path) -> None:
    ran = raysft(capsys, "preview", recipe, "--num", "1")
    assert ran.code == 0
    assert "data.jsonl:1 " in ran.out
    assert "[[number 0 number 0 number 0 <|im_end|>]]" in ran.out


def test_a_preview_tells_of_records_that_will_be_refused(capsys, recipe: Path, tmp_path: Path) -> None:
    path = tmp_path / "mixed.jsonl"
    path.write_text(json_lines('{"instruction": ', {"messages": [{"role": "user", "content": "hi"}]}))
    ran = raysft(capsys, "preview", recipe, *overrides(f"data.train={path}"))
    assert_refused(ran, "none of these records becomes a sample", "malformed_json, no_assistant_turn")
    assert f"{path}:1 refused, malformed_json" in ran.out
    assert f"{path}:2 refused, no_assistant_turn: roles seen: user" in ran.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("{folder}/no.jsonl", "--out", "{out}"), ("there is no file", "no.jsonl")),
        (("{data}", "--out", "{out}", "--vocab-size", "10"), ("too small", "vocab_size 10", "at least 259")),
        (("{data}", "--out", "{out}", "--column", "instructoin=q"), ("'instructoin'", "did you mean 'instruction'?")),
        (("{data}", "--out", "{out}", "--column", "output"), ("cannot read --column output",)),
        (("{data}", "--out", "{out}", "--format", "messages"), ("no record can train", "missing_column")),
        (("{data}", "--out", "{out}", "--template", "chatlm"), ("built-in template", "'chatlm'", "chatml")),
        (("{data}", "--out", "{data}"), ("cannot write the tokenizer", "--out")),
        (("{data}", "--out", "/proc/raysft"), ("cannot write the tokenizer", "--out")),
    ],
)
def test_a_tokenizer_that_cannot_be_trained(
    capsys, recipe: Path, tmp_path: Path, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    names = {"folder": recipe.parent, "data": recipe.parent / "data.jsonl", "out": tmp_path / "out"}
    ran = raysft(capsys, "tokenizer", "train", *(argument.format(**names) for argument in arguments))
    assert_refused(ran, *words)
    assert not (tmp_path / "out" / "tokenizer.json").exists()


def test_export_before_training(capsys, recipe: Path) -> None:
    assert_refused(raysft(capsys, "export", recipe), "has no checkpoint", "raysft train")


def test_evaluation_without_a_model(capsys, recipe: Path, tmp_path: Path) -> None:
    assert_refused(raysft(capsys, "evaluate", recipe), "no model to evaluate", "raysft train")
    missing = tmp_path / "nowhere"
    assert_refused(raysft(capsys, "evaluate", recipe, "--model", missing), str(missing), "check --model")


def test_evaluation_without_held_out_data(capsys, recipe: Path, tmp_path: Path) -> None:
    ran = raysft(capsys, "evaluate", recipe, "--model", tmp_path, *overrides("data.eval_fraction=0"))
    assert_refused(ran, "no held-out data", "data.eval")
