"""What a recipe streams: the same on every process that asks, another when the files are others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raysft.data.feed.stream import StreamSource
from raysft.data.feed.stream_source import stream_source
from raysft.recipe.load import parse_recipe

LINE = '{"instruction": "q", "output": "a"}\n'


@pytest.fixture
def source(tmp_path: Path, tokenizers: Any) -> Any:
    tokenizers["chatml"].save_pretrained(tmp_path / "tok")
    for name in ("a.jsonl", "b.jsonl", "held.jsonl"):
        (tmp_path / name).write_text(LINE)

    def make(**data: Any) -> StreamSource:
        fields = {"train": [str(tmp_path / "b.jsonl"), str(tmp_path / "a.jsonl")], "template": "chatml", **data}
        model = {"source": "random", "config": {"model_type": "llama"}, "tokenizer": str(tmp_path / "tok")}
        recipe = parse_recipe(
            {"name": "r", "model": model, "data": {"mode": "stream", "order": "windowed", **fields}}
        )
        return stream_source(recipe, cpus_per_task=2)

    return make


def test_the_files_in_their_order_and_what_tasks_need(source: Any) -> None:
    found = source(max_tokens=64)
    assert [Path(file.location).name for file in found.files] == ["b.jsonl", "a.jsonl"]
    assert (found.max_tokens, found.cpus_per_task) == (64, 2)
    assert len(found.contents) == 2
    assert source(max_tokens=64).fingerprint == found.fingerprint


def test_held_out_files_are_not_streamed(source: Any, tmp_path: Path) -> None:
    found = source(eval=[str(tmp_path / "held.jsonl")])
    assert [Path(file.location).name for file in found.files] == ["b.jsonl", "a.jsonl"]


def test_files_that_changed_are_another_stream(source: Any, tmp_path: Path) -> None:
    before = source().fingerprint
    assert source(max_tokens=64).fingerprint != before
    (tmp_path / "a.jsonl").write_text(LINE.replace('"a"', '"b"'))
    assert source().fingerprint != before
