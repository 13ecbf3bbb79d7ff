"""Templates of pages: everything is escaped, and a fact that is missing is no blank."""

from __future__ import annotations

from pathlib import Path

import pytest
from jinja2 import UndefinedError

import raysft.observe
from raysft.observe.pages import page_template

FOLDER = Path(raysft.observe.__path__[0]) / "templates"
TEMPLATES = sorted(path.name for path in FOLDER.glob("*.html"))
PAGES = [name for name in TEMPLATES if '{% extends "page.html" %}' in (FOLDER / name).read_text("utf-8")]
"""The others are parts of them."""


@pytest.mark.parametrize("name", PAGES)
def test_a_page_without_its_facts_is_an_error(name: str) -> None:
    with pytest.raises(UndefinedError):
        page_template(name).render()


def test_values_are_escaped_by_default() -> None:
    environment = page_template(TEMPLATES[0]).environment
    made = environment.from_string("{{ value }}|{{ value | safe }}").render(value='<b>"&')
    assert made == '&lt;b&gt;&#34;&amp;|<b>"&'


def test_no_page_loads_anything() -> None:
    assert len(PAGES) == len(TEMPLATES) - 2
    for name in TEMPLATES:
        text = (FOLDER / name).read_text("utf-8")
        assert "<script" not in text
        assert 'src="' not in text
        assert "@import" not in text
