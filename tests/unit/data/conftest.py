"""Material for the data tests: a byte-level tokenizer whose merges cross the borders of turns."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from raysft.data.prepare.encode import EncodeStage
from raysft.data.text.backend import BackendJson
from raysft.data.text.tokenizer import template_for, train_tokenizer
from raysft.recipe.sections.data import DataSection

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"
TEMPLATES = ("chatml", "gemma", "llama3", "mistral", "qwen3", "zephyr")


def write_jsonl(path: Path, records: list[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), "utf-8")
    return str(path)


def corpus() -> list[dict[str, object]]:
    """Texts in which line breaks pile up, so that the tokenizer learns to merge them."""
    words = ["alpha beta", "gamma: delta", "7 + 35 = 42", "你好，世界", "naïve café", "🙂 ok"]
    return [
        {"instruction": f"say {word} {i}", "output": "\n" * (i % 5) + f"{word}\n\n{word}: {i}\n" + "\n" * (i % 3)}
        for i in range(40)
        for word in words
    ]


@pytest.fixture(scope="session")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PreTrainedTokenizerFast]:
    folder = tmp_path_factory.mktemp("tokenizers")
    path = write_jsonl(folder / "corpus.jsonl", corpus())
    return {
        name: train_tokenizer([path], columns={}, vocab_size=600, template=name, out=str(folder / name))
        for name in TEMPLATES
    }


@pytest.fixture(scope="session")
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip(f"real data is not here: {SHARED}")
    return SHARED


@pytest.fixture
def make_stage(tokenizers: Any):
    def make(path: Path, *, held_out: float = 0.0, **data: Any) -> EncodeStage:
        section = DataSection(train=(str(path),), **data)
        template = template_for("chatml", tokenizers["chatml"])
        return EncodeStage(BackendJson.of(tokenizers["chatml"]), template, section, held_out, 0)

    return make
