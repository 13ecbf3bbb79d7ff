"""Rules as a recipe holds them: what a field may be, which stand once."""

from __future__ import annotations

from typing import Any

import pytest
from fakes import make_recipe
from pydantic import TypeAdapter, ValidationError
from refusals import refuse

from raysft.recipe.checks import check_recipe
from raysft.recipe.cleaning import Rule


def rule(name: str, **fields: Any) -> Rule:
    adapter: TypeAdapter[Rule] = TypeAdapter(Rule)
    return adapter.validate_python({"rule": name, **fields})


@pytest.mark.parametrize(
    "fields",
    [
        {"rule": "pii", "kinds": ["emial"]},
        {"rule": "expand", "templates": ["no place"]},
        {"rule": "length", "action": "fix"},
    ],
)
def test_the_recipe_refuses(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        rule(fields.pop("rule"), **fields)


def test_a_rule_that_compares_records_stands_once() -> None:
    twice = [{"rule": "contamination", "files": [name]} for name in ("a.jsonl", "b.jsonl")]
    assert "got: contamination" in refuse(data={"rules": twice})
    check_recipe(make_recipe(data={"rules": [twice[0], {"rule": "normalise"}, {"rule": "normalise"}]}))
