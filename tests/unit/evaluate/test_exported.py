"""An export at a URI has its tokenizer's named templates; what is no model directory says what would be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import pytest
from fakes import make_tokenizer
from families import LLAMA, make_model

from raysft.errors import ModelError
from raysft.evaluate.exported import load_exported

TEMPLATES = {"default": "{{ messages }}", "tool_use": "{{ tools }}"}


@pytest.fixture
def export(tmp_path: Path) -> Path:
    model: Any = make_model(LLAMA)
    model.save_pretrained(tmp_path / "export" / "merged")
    tokenizer = make_tokenizer()
    tokenizer.chat_template = TEMPLATES
    tokenizer.save_pretrained(tmp_path / "export" / "merged")
    return tmp_path / "export"


def test_named_templates_travel_from_a_uri(export: Path) -> None:
    assert (export / "merged" / "additional_chat_templates" / "tool_use.jinja").is_file()
    fsspec.filesystem("memory").put(str(export), "/templates/export", recursive=True)
    for location in (str(export), "memory://templates/export"):
        _, tokenizer = load_exported(location)
        assert tokenizer.chat_template == TEMPLATES


@pytest.mark.parametrize(
    ("files", "got", "fix"),
    [
        (["adapter/adapter_config.json"], "a bare adapter", "export.merged: true"),
        (["merged/config.json"], "without weights", "export it again"),
        (["merged/config.json", "merged/pytorch_model.bin"], "without weights", "export it again"),
        (["a.txt", "b.txt"], "no config.json; there are a.txt, b.txt", "name the export directory"),
        ([], "an empty one", "raysft export"),
    ],
)
def test_what_is_no_model_is_told_by_what_is_there(tmp_path: Path, files: list[str], got: str, fix: str) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    with pytest.raises(ModelError, match="no model to evaluate") as caught:
        load_exported(str(tmp_path))
    assert got in caught.value.got
    assert fix in caught.value.fix
    assert "merged/" in caught.value.expected
