"""Templates of the HTML pages: one file each, with nothing to load from elsewhere; everything is escaped."""

from __future__ import annotations

from functools import lru_cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template


@lru_cache(maxsize=2)
def page_template(name: str) -> Template:
    """A file of observe/templates."""
    loader = PackageLoader("raysft.observe", "templates")
    return Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).get_template(name)
