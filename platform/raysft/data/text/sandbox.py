"""Where chat templates run: jinja2's sandbox with what templates expect of transformers, and with bounds.

Owns the marks that generation blocks leave around what they write, and what a template may cost: a template is a
program of somebody else's. While a record is written, loops and macros are counted, and so is the text; products
are looked at before they are made. Before a template is used at all, it writes a few records in a child process with
little memory and time (`rehearse`). Knows no conversation.
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import date
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from raysft.errors import DataError

# Unicode noncharacters: never part of text that is exchanged. They mark places while a template runs.
OPEN, CLOSE = "\ufdd0", "\ufdd1"
"""Around what a generation block writes."""
TEXT_OPEN, TEXT_CLOSE = "\ufdd2", "\ufdd3"
"""Around a message's text, where it has to be found again."""
MARKS = OPEN + CLOSE + TEXT_OPEN + TEXT_CLOSE
GENERATION = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")

# What a template can fail with: it is a program of the user's.
TEMPLATE_ERRORS = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    ArithmeticError,
    LookupError,
    AttributeError,
    RuntimeError,
    MemoryError,
)
_MAX_STEPS = 300_000
"""Turns of loops and calls of macros for one record; a record of 10,000 messages takes 30,000."""
_MAX_SECONDS = 20.0
_MAX_CHARS = 1 << 26
"""Characters that one record may become, or one value inside a template."""
_REHEARSAL_SECONDS = 10
_REHEARSAL_BYTES = 1 << 30
_STEP = "raysft_step"
_CHUNK = 4096
"""Pieces of text that are taken from a template at once."""
_DICT_ATTRIBUTES = frozenset(dir(dict))


class TemplateCostError(jinja2.TemplateError):
    """A template that takes too long or writes too much."""


class _Steps:
    """The loops of one rendering, counted. Called at every turn of a loop and by every macro."""

    def __init__(self) -> None:
        self._done, self._until = 0, time.monotonic() + _MAX_SECONDS

    def count(self) -> None:
        self._done += 1
        if self._done > _MAX_STEPS or (self._done % 256 == 0 and time.monotonic() > self._until):
            raise TemplateCostError(f"the template does not end: {self._done:,} turns of its loops for one record")


class _GenerationBlocks(Extension):
    """`{% generation %}...{% endgeneration %}`: puts marks around what the block writes."""

    tags = {"generation"}  # noqa: RUF012  (jinja2 declares it so)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        marks = [nodes.Output([nodes.TemplateData(mark)], lineno=line) for mark in (OPEN, CLOSE)]
        # what a block sets ends with it, as in transformers
        return [marks[0], nodes.Scope(body, lineno=line), marks[1]]


class _Environment(ImmutableSandboxedEnvironment):
    """jinja2's sandbox, faster where templates spend their time: reading the keys of messages."""

    intercepted_binops = frozenset(["*", "**", "%"])

    def getattr(self, obj: Any, attribute: str) -> Any:
        """What the sandbox finds for a dict's key, without the AttributeError that it raises and catches first."""
        if type(obj) is dict and attribute not in _DICT_ATTRIBUTES:
            return obj[attribute] if attribute in obj else self.undefined(obj=obj, name=attribute)
        return super().getattr(obj, attribute)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """`*`, `**` and `%`, whose result may be of any size."""
        for one, other in ((left, right), (right, left)):
            if operator == "*" and isinstance(one, Sequence) and isinstance(other, int):
                _check_size(len(one) * other)
        if operator == "**" and isinstance(left, int) and isinstance(right, int):
            _check_size(abs(left).bit_length() * max(right, 0) // 8)
        if operator == "%" and isinstance(left, str):
            _check_size(
                sum(map(int, re.findall(r"%[-+ #0]*(\d+)", left))) + sum(map(int, re.findall(r"\.(\d+)", left)))
            )
            if "*" in left:
                raise TemplateCostError("a template may not take a width from a value (`%*d`)")
        return super().call_binop(context, operator, left, right)


def _check_size(size: int) -> None:
    if size > _MAX_CHARS:
        raise TemplateCostError(f"the template makes a value of {size:,} characters, more than {_MAX_CHARS:,}")


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
    if isinstance(indent, int) and indent > 64:
        raise TemplateCostError(f"the template indents JSON by {indent:,} blanks, more than 64")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@lru_cache(maxsize=32)
def compile_template(text: str) -> jinja2.Template:
    """Raises DataError for what is not Jinja."""
    environment = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlocks, loopcontrols])
    environment.filters["tojson"] = to_json
    environment.filters[_STEP] = _Steps.count
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    try:
        tree = environment.parse(text)
        _count_steps(tree)
        return environment.from_string(tree)
    except (jinja2.TemplateSyntaxError, RecursionError) as error:
        where = (
            f"line {error.lineno}: {error.message}" if isinstance(error, jinja2.TemplateSyntaxError) else "too deep"
        )
        raise DataError(
            "the chat template is not valid Jinja",
            got=where,
            expected="a template as transformers accepts it",
            fix="correct the template, or name a built-in one",
        ) from error


def _count_steps(tree: nodes.Template) -> None:
    """Make every turn of a loop and every macro say so."""
    for node in tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock)):
        assert isinstance(node, nodes.For | nodes.Macro | nodes.CallBlock)
        step = nodes.Filter(nodes.Name(_STEP, "load"), _STEP, [], [], None, None)  # a filter is called directly
        node.body.insert(0, nodes.ExprStmt(step).set_lineno(node.lineno))


@lru_cache(maxsize=32)
def _compiled(text: str) -> tuple[jinja2.Template, dict[str, Any]]:
    """The template, and what every template sees: asked of jinja2 once, as it looks its globals up slowly."""
    compiled = compile_template(text)
    return compiled, dict(compiled.globals)


def run_template(text: str, variables: Mapping[str, Any]) -> list[str]:
    """What the template `text` writes, in pieces. Raises TEMPLATE_ERRORS."""
    compiled, constants = _compiled(text)
    seen = {**constants, **variables, _STEP: _Steps()}
    context = Context(compiled.environment, seen, compiled.name, compiled.blocks)
    pieces = compiled.root_render_func(context)
    written = list(islice(pieces, _CHUNK))
    length = 0
    while len(written) % _CHUNK == 0 and (more := list(islice(pieces, _CHUNK))):
        written += more
        length += sum(map(len, more))
        if length > _MAX_CHARS:
            raise TemplateCostError(f"the template writes more than {_MAX_CHARS:,} characters for one record")
    return written


_RECORDS: tuple[dict[str, Any], ...] = (
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "tools": None},
    {"messages": [{"role": "user", "content": "a"}], "tools": None, "add_generation_prompt": True},
    {
        "messages": [
            {"role": "system", "content": "s"},
            *({"role": r, "content": "c"} for r in ("user", "assistant") * 2),
        ],
        "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {}}}],
    },
)


@lru_cache(maxsize=32)
def rehearse_template(name: str, text: str, named: tuple[tuple[str, str], ...]) -> None:
    """Let a template write three small records in a child process with 1 GiB and 10 s.

    That it refuses them is no matter here. Raises DataError when it does not end, or takes all the memory.
    """
    try:
        child = subprocess.run(
            [sys.executable, "-P", "-m", "raysft.data.text.sandbox"],
            input=json.dumps([text, named]),
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
            text=True,
            capture_output=True,
            timeout=3 * _REHEARSAL_SECONDS,
            check=False,
        )
        problem = (
            "" if child.returncode == 0 else child.stderr.strip()[-300:] or f"ended by signal {-child.returncode}"
        )
    except subprocess.TimeoutExpired:
        problem = f"no end after {3 * _REHEARSAL_SECONDS} s"
    if problem:
        raise DataError(
            f"the chat template {name!r} takes too long or too much memory for two short messages",
            got=problem,
            expected=f"an end within {_REHEARSAL_SECONDS} s and {_REHEARSAL_BYTES >> 30} GiB",
            fix="look at its loops, at products such as 'A' * 2000000000 and at widths; or name a built-in template",
        )


def _main() -> int:
    """The child of rehearse(): [template, special tokens] as JSON on stdin."""
    text, named = json.loads(sys.stdin.read())
    resource.setrlimit(resource.RLIMIT_AS, (_REHEARSAL_BYTES, _REHEARSAL_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (_REHEARSAL_SECONDS, _REHEARSAL_SECONDS + 1))
    for record in _RECORDS:
        try:
            run_template(text, {**dict(named), "add_generation_prompt": False, **record})
        except (MemoryError, TemplateCostError) as error:
            sys.stderr.write(str(error) or "out of memory")
            return 1
        except (*TEMPLATE_ERRORS, DataError):  # what is not Jinja is told by the one who asks
            continue
    return 0


if __name__ == "__main__":
    sys.exit(_main())
