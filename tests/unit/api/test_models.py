"""Tokenizers and exports as objects."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import write_material

import raysft


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_material(tmp_path_factory.mktemp("user"))


def test_a_tokenizer_is_trained_and_told(path: Path, tmp_path: Path) -> None:
    made = raysft.train_tokenizer([path.parent / "data.jsonl"], tmp_path / "tok", vocab_size=270)
    assert made.num_tokens == len(made.tokenizer)
    assert json.loads((tmp_path / "tok" / "tokenizer.json").read_text())["model"]["type"] == "BPE"
