"""`raysft.compare` as an object: its table in a notebook, what it accepts; what is compared: tests/unit/run."""

from __future__ import annotations

from pathlib import Path

from html_page import Page
from run_dirs import make_run

import raysft


def test_a_comparison_is_lines_and_a_page(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, name, seed) for seed, name in enumerate(("one", "two"))]
    found = raysft.compare(runs)
    assert found.page is None
    assert [run.label for run in found.runs] == ["one", "two"]
    assert str(found).splitlines() == found.lines()
    assert "Where the recipes differ" in Page(found._repr_html_()).text
    assert found.fields["seed"] == ("0", "1")
