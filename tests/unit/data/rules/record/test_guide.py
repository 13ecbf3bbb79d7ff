"""The guide's examples are recipes, and every rule has its row."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import yaml
from pydantic import TypeAdapter

from raysft.recipe.cleaning import RecordRule, Rule, WholeDataRule

GUIDE = (Path(__file__).parents[5] / "docs" / "guide" / "rules.md").read_text("utf-8")


def test_every_rule_has_a_row_and_an_example_that_loads() -> None:
    sections = [section for union in (RecordRule, WholeDataRule) for section in get_args(get_args(union)[0])]
    names = {get_args(section.model_fields["rule"].annotation)[0] for section in sections}
    assert len(names) == 18
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)]
    examples = [
        example for block in blocks for example in (block if isinstance(block, list) else block["data"]["rules"])
    ]
    adapter: TypeAdapter[Rule] = TypeAdapter(Rule)
    assert {adapter.validate_python(example).rule for example in examples} == names
    assert set(re.findall(r"^\| `(\w+)` \|", GUIDE, re.MULTILINE)) == names


def test_bold_actions_are_the_defaults() -> None:
    sections = [section for union in (RecordRule, WholeDataRule) for section in get_args(get_args(union)[0])]
    for section in sections:
        if "action" in section.model_fields:
            name = get_args(section.model_fields["rule"].annotation)[0]
            row = next(line for line in GUIDE.splitlines() if line.startswith(f"| `{name}` |"))
            assert re.findall(r"\*\*(\w+)\*\*", row) == [section.model_fields["action"].default]
