from __future__ import annotations

import json

import pytest

from raysft.data.inspect import certificate, preview
from raysft.recipe.schema import DataSection, ModelSection, Recipe


@pytest.fixture
def recipe(tmp_path, tokenizers) -> Recipe:
    tokenizers["chatml"].save_pretrained(tmp_path / "tok")
    lines = [
        json.dumps({"instruction": "你好", "output": "\nyes 🙂"}),
        '{"text": 1}',
        "broken",
        '{"instruction": "", "output": "b"}',
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    return Recipe(
        name="r",
        model=ModelSection(source="random", tokenizer=str(tmp_path / "tok")),
        data=DataSection(train=(str(tmp_path / "a.jsonl"),), max_tokens=64),
    )


def test_plain_preview_marks_trained_text(recipe):
    text = preview(recipe, 3, color=False).plain
    assert "<|im_start|>assistant[[\n\n]][[yes 🙂<|im_end|>]]" in text, "the straddling token is apart"
    assert "<|im_start|>user\n你好<|im_end|>" in text
    assert "a.jsonl:2 refused, unknown_format: columns seen: text" in text
    assert "a.jsonl:3 refused, malformed_json" in text
    assert "1 straddle" in text
    assert "a.jsonl:4" not in text


def test_coloured_preview(recipe):
    text = preview(recipe, 1, color=True)
    assert "[[" not in text.plain
    trained = [text.plain[span.start : span.end] for span in text.spans if span.style == "bold green"]
    straddling = [text.plain[span.start : span.end] for span in text.spans if span.style == "bold white on red"]
    assert (trained, straddling) == (["yes 🙂<|im_end|>"], ["\n\n"])


def test_certificate():
    counts = {
        "records_read": 10,
        "examples": 7,
        "rows": 2,
        "fill": 0.5,
        "tokens": 100,
        "target_tokens": 40,
        "straddles": 3,
        "truncated": 1,
        "refused": {"over_long": 3},
    }
    refusals = {"over_long": [{"where": "f:9", "detail": "99 tokens"}]}
    lines = certificate({"counts": counts, "max_tokens": 50, "refusals": refusals})
    text = "\n".join(lines)
    for part in (
        "7 samples of 10",
        "40 of 100 tokens trained (40.0%)",
        "3 tokens straddle",
        "1 samples cut",
        "3 x over_long",
        "f:9",
    ):
        assert part in text


@pytest.mark.parametrize(("over_long", "parts"), [("truncate", 1), ("split", 2)])
def test_preview_of_samples_that_are_too_long(recipe, tmp_path, over_long, parts):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "alpha beta gamma: " * 30}))
    data = recipe.data.model_copy(update={"over_long": over_long})
    text = preview(recipe.model_copy(update={"data": data}), 1, color=False).plain
    assert text.count(" tokens, ") == parts
    assert text.count("[[") == parts
    assert ("cut to data.max_tokens" in text) is (over_long == "truncate")
    assert (f"part {parts} of {parts}: " in text) is (over_long == "split")
