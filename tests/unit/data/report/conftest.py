"""Recipes over given records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raysft.recipe.schema import Recipe
from raysft.recipe.sections.data import DataSection
from raysft.recipe.sections.model import ModelSection


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory, tokenizers) -> str:
    folder = tmp_path_factory.mktemp("tok")
    tokenizers["chatml"].save_pretrained(folder)
    return str(folder)


@pytest.fixture
def make(tmp_path: Path, tokenizer_folder: str):
    def recipe(records: list[Any], **data: Any) -> Recipe:
        lines = [json.dumps(record, ensure_ascii=False) if isinstance(record, dict) else record for record in records]
        (tmp_path / "a.jsonl").write_text("".join(line + "\n" for line in lines), "utf-8")
        return Recipe(
            name="r",
            storage=str(tmp_path / "storage"),
            model=ModelSection(source="random", tokenizer=tokenizer_folder),
            data=DataSection.model_validate({"train": [str(tmp_path / "a.jsonl")], **data}),
        )

    return recipe
