"""docs/reference/recipe.md is the schema as it is now; every field says what it means, every number its unit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from raysft.recipe.json_schema import recipe_schema
from raysft.recipe.reference import PURE_NUMBERS, PURE_WORDS, UNITS, reference, unit

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "recipe.md"
SCHEMA = recipe_schema()


def properties() -> list[tuple[str, str, dict[str, Any]]]:
    """(section, name, schema) of every field, walked here by hand."""
    sections = {"Recipe": SCHEMA, **SCHEMA["$defs"]}
    return [
        (section, name, field)
        for section, body in sections.items()
        for name, field in body.get("properties", {}).items()
        if not name.startswith("$")
    ]


def test_the_page_is_that_of_the_schema() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(SCHEMA), "run `make reference`"


@pytest.mark.parametrize(
    ("section", "name", "field"), properties(), ids=lambda part: part if type(part) is str else ""
)
def test_every_field_stands_there_with_its_meaning(section: str, name: str, field: dict[str, Any]) -> None:
    body = SCHEMA if section == "Recipe" else SCHEMA["$defs"][section]
    assert body["description"], f"{section} needs a docstring"
    text = PAGE.read_text(encoding="utf-8")
    if name in ("rule", "distribution"):  # they tell the sections of a union apart
        assert f"with `{name}: {field['const']}`" in text
        return
    assert f"| `{name}` |" in text
    assert "description" in field or "$ref" in field, f"{section}.{name} does not say what it means"


def test_every_choice_of_a_field_stands_there() -> None:
    text = PAGE.read_text(encoding="utf-8")

    def values(part: Any) -> list[Any]:
        inner = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
        own = part.get("enum", []) if isinstance(part, dict) else []
        return [*(own if isinstance(own, list) else []), *(found for each in inner for found in values(each))]

    choices = values(SCHEMA)
    assert len(choices) > 80
    assert [value for value in choices if f"`{value}`" not in text] == []


def test_every_number_has_a_unit_or_is_known_to_have_none() -> None:
    """A KeyError here: a new number. Put it into UNITS, PURE_NUMBERS or PURE_WORDS."""
    units = {name: unit(name, field) for _, name, field in properties()}
    assert units["hang_timeout_s"] == "seconds"
    assert units["keep_every_steps"] == "optimizer steps"
    assert units["learning_rate"] == units["source"] == ""
    with pytest.raises(KeyError):
        unit("height", {"type": "number"})
    assert {name for name in PURE_NUMBERS if name not in units} == set(), "no such field any more"
    words = {word for name in units for word in (name, *name.split("_"))}
    assert UNITS.keys() <= words
    assert {name.rpartition("_")[2] for name in units} >= PURE_WORDS


def test_a_table_has_as_many_cells_in_every_row() -> None:
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {6}


class Left(BaseModel):
    """One of two."""

    kind: Literal["left"] = "left"
    weight: float = Field(1.0, gt=0, lt=9, description="Heavy | light, <b>bold</b>.")


class Right(BaseModel):
    """The other."""

    kind: Literal["right"]
    names: list[str] = Field(min_length=2, description="Who.")


class Whole(BaseModel):
    """All of it."""

    side: Left | Right = Field(discriminator="kind", description="Which side.")
    others: dict[str, Left] | None = Field(None, description="More.")


def test_unions_told_apart_by_a_field_with_a_default_too() -> None:
    lines = reference(Whole.model_json_schema()).splitlines()
    assert "| `side` | section with `kind`: `left`, `right` | required |  | Which side. |" in lines
    assert "| `others` | mapping: name -> section or `null` | `null` |  | More. |" in lines
    assert "## `side` with `kind: left`" in lines
    assert "| `weight` | number, > 0, < 9 | `1.0` |  | Heavy \\| light, \\<b>bold\\</b>. |" in lines
    assert "| `names` | list of at least 2: text | required |  | Who. |" in lines
    assert sum(line.startswith("## `side` with `kind: left`") for line in lines) == 1
