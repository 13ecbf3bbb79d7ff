"""Where chat templates run: jinja2's sandbox with what templates expect of transformers. Knows no conversation.

Owns the marks that generation blocks leave around what they write.
"""

from __future__ import annotations

import json
from datetime import date
from functools import lru_cache
from typing import Any

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node, Output, Scope, TemplateData
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from raysft.errors import DataError

# Unicode noncharacters: never part of text that is exchanged. They mark the trained spans while a template runs.
OPEN, CLOSE = "\ufdd0", "\ufdd1"
# What a template can fail with: it is a program of the user's.
TEMPLATE_ERRORS = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    ArithmeticError,
    LookupError,
    AttributeError,
    RuntimeError,
)
_DICT_ATTRIBUTES = frozenset(dir(dict))


class _GenerationBlocks(Extension):
    """`{% generation %}...{% endgeneration %}`: puts marks around what the block writes."""

    tags = {"generation"}  # noqa: RUF012  (jinja2 declares it so)

    def parse(self, parser: Parser) -> list[Node]:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        marks = [Output([TemplateData(mark)], lineno=line) for mark in (OPEN, CLOSE)]
        return [marks[0], Scope(body, lineno=line), marks[1]]  # what a block sets ends with it, as in transformers


class _Environment(ImmutableSandboxedEnvironment):
    """jinja2's sandbox, faster where templates spend their time: reading the keys of messages."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        """What the sandbox finds for a dict's key, without the AttributeError that it raises and catches first."""
        if type(obj) is dict and attribute not in _DICT_ATTRIBUTES:
            return obj[attribute] if attribute in obj else self.undefined(obj=obj, name=attribute)
        return super().getattr(obj, attribute)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    """A fixed day, the one Llama 3.1's template falls back to: the same records must give the same tokens."""
    return date(2024, 7, 26).strftime(pattern)


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """The `tojson` filter as transformers has it: plain JSON, not HTML-safe."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@lru_cache(maxsize=32)
def compile_template(text: str) -> jinja2.Template:
    """Raises DataError for what is not Jinja."""
    environment = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlocks, loopcontrols])
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    try:
        return environment.from_string(text)
    except jinja2.TemplateSyntaxError as error:
        raise DataError(
            "the chat template is not valid Jinja",
            got=f"line {error.lineno}: {error.message}",
            expected="a template as transformers accepts it",
            fix="correct the template, or name a built-in one",
        ) from error
