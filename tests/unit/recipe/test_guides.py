"""The recipes of the guide, one for each method and each objective, are recipes, and none is missing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from raysft.recipe.checks import check_recipe
from raysft.recipe.load import parse_recipe
from raysft.recipe.objective_traits import OBJECTIVES
from raysft.recipe.traits import METHODS

GUIDE = Path(__file__).parents[3] / "docs" / "guide"
WITHOUT_ACCURACY = ("sft", "dft", "eaft", "distill")
PAGES = {"method": ("methods.md", METHODS), "objective": ("objectives.md", OBJECTIVES)}


def rows(section: str) -> list[dict[str, Any]]:
    """The sections in the table of recipes."""
    page, _ = PAGES[section]
    told = (GUIDE / page).read_text(encoding="utf-8")
    return [yaml.safe_load(one) for one in re.findall(r"^\| .* \| `(\{kind: [^`]*\})` \|", told, re.MULTILINE)]


def whole(section: str) -> dict[str, Any]:
    """The recipe that stands above the table: the first of its page."""
    page, _ = PAGES[section]
    found = re.findall(r"```yaml\n(name: .*?)```", (GUIDE / page).read_text(encoding="utf-8"), re.DOTALL)
    content: dict[str, Any] = yaml.safe_load(found[0])
    return content


@pytest.mark.parametrize("section", PAGES)
def test_every_kind_has_a_recipe(section: str) -> None:
    assert {one["kind"] for one in rows(section)} == set(PAGES[section][1])


@pytest.mark.parametrize(("section", "one"), [(section, one) for section in PAGES for one in rows(section)], ids=str)
def test_a_recipe_of_the_guide_is_one(section: str, one: dict[str, Any]) -> None:
    fields = {**whole(section), section: one}
    if one["kind"] == "probe":
        fields["objective"] = {"kind": "reward"}
    if "unfreeze_every_steps" in one:
        fields["optimizer"]["weight_decay"] = 0.0
        fields["train"] = {"max_steps": 400}
    if one["kind"] in WITHOUT_ACCURACY:
        del fields["checkpoint"]
    check_recipe(parse_recipe(fields))
