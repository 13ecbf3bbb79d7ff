"""A plan as an object: the numbers of the command."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes import recipe_8b
from html_page import Reader

import raysft


def test_a_plan_has_the_numbers_of_the_command(capsys, tmp_path: Path) -> None:
    recipe = recipe_8b(8)
    found = raysft.plan(recipe, "8xH100-80G")
    layouts = found.to_json()["layouts"]
    assert len(found.rows) == len(layouts)
    for row, layout in zip(found.rows, layouts, strict=True):
        assert row.memory_gib * 2**30 == pytest.approx(layout["memory_bytes"]["total"])
        assert row.tokens_per_s == layout["time"]["tokens_per_s"]
        assert row.replicas * row.tensor * row.pipeline * row.sequence == 8
    assert found.best == found.rows[0]
    assert found.recipe().parallel.zero == found.best.zero
    assert found.recipe().cluster.workers == 8
    assert found.own is not None
    assert found.rows[found.own].zero == recipe.parallel.zero
    assert str(found) == "\n".join(found.lines())
    assert "fastest" in str(found)
    page = Reader(found._repr_html_())
    assert {"table", "caption", "th", "td"} <= page.tags
    assert "8 x H100-80G" in page.text
    nothing = raysft.plan(recipe_8b(1), "1xL4-24G")
    assert nothing.best is None
    assert "none fits" in str(nothing)
