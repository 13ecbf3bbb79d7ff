"""The certificate of a stream: counts of its first records, made by hand here, before any worker starts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from raysft.data.prepare import stream_certificate
from raysft.data.prepare.fingerprint import Side, describe_sides
from raysft.data.prepare.stream_certificate import sample_manifest
from raysft.data.report.preview import certificate
from raysft.errors import DataError
from raysft.recipe.load import parse_recipe


@pytest.fixture
def side(tmp_path: Path, tokenizers: dict[str, PreTrainedTokenizerFast], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The training side of a recipe over given lines; tasks run here."""

    def here(function: Any, items: Any) -> Iterator[Any]:
        return (json.loads(json.dumps(function(item))) for item in items)

    monkeypatch.setattr(stream_certificate, "on_ray", here)
    tokenizers["chatml"].save_pretrained(tmp_path / "tok")

    def make(lines: list[str]) -> Side:
        (tmp_path / "a.jsonl").write_text("".join(line + "\n" for line in lines))
        data = {"train": str(tmp_path / "a.jsonl"), "template": "chatml", "max_tokens": 64, "mode": "stream"}
        model = {"source": "random", "config": {"model_type": "llama"}, "tokenizer": str(tmp_path / "tok")}
        recipe = parse_recipe({"name": "r", "model": model, "data": {**data, "order": "windowed"}})
        return describe_sides(recipe)[0]

    return make


def line(number: int) -> str:
    return json.dumps({"instruction": f"q {number}", "output": f"answer {number}", "mood": "x"})


def test_counts_are_those_of_the_first_records(side: Any, tokenizers: dict[str, PreTrainedTokenizerFast]) -> None:
    wanted = side([line(0), "broken", line(1), line(2)])
    found = sample_manifest(wanted)
    tokens, targets = 0, 0
    for number in range(3):
        text = f"<|im_start|>user\nq {number}<|im_end|>\n<|im_start|>assistant\nanswer {number}<|im_end|>\n"
        tokens += len(tokenizers["chatml"](text, add_special_tokens=False).input_ids)
        answer = f"answer {number}<|im_end|>"
        targets += len(tokenizers["chatml"](answer, add_special_tokens=False).input_ids)
    counts = found["counts"]
    assert (counts["records_read"], counts["examples"], counts["refused"]) == (4, 3, {"malformed_json": 1})
    assert (counts["tokens"], counts["target_tokens"], counts["truncated"]) == (tokens, targets, 0)
    assert counts["notes"]["unread"]["mood"]["count"] == 3
    (refusal,) = found["refusals"]["malformed_json"]
    assert refusal["where"].endswith("a.jsonl:2")
    assert found["fingerprint"] == wanted.fingerprint
    told = "\n".join(certificate(found))
    assert "first" in told, "it says that it is a sample"


def test_a_long_stream_is_looked_at_in_part(side: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_certificate, "_BATCHES", 1)
    found = sample_manifest(side([line(number) for number in range(400)]))
    assert found["counts"]["records_read"] == 256
    assert found["sampled"]


def test_a_stream_of_which_nothing_can_train_is_refused_at_once(side: Any) -> None:
    with pytest.raises(DataError, match="no sample is left of 2 records") as caught:
        sample_manifest(side(["broken", '{"instruction": "q", "output": ""}']))
    assert "malformed_json" in caught.value.got
    assert "empty_answer" in caught.value.got
