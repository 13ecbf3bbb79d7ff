"""Templates of the HTML pages: one file each, with nothing to load from elsewhere; everything is escaped."""

from __future__ import annotations

from functools import lru_cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

LINE_MARK = Markup('<span class="nl">↵</span>\n')
"""Shows where a line of a text ends; it is not copied with the text."""


def line_marks(text: str) -> Markup:
    """A text of a model with a mark at each of its line breaks, escaped."""
    return LINE_MARK.join(text.split("\n"))


@lru_cache(maxsize=8)
def page_template(name: str) -> Template:
    """A file of observe/templates."""
    loader = PackageLoader("raysft.observe", "templates")
    pages = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    pages.filters["line_marks"] = line_marks
    return pages.get_template(name)
