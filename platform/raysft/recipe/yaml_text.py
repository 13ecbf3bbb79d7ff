"""YAML text -> plain values, within bounds: whatever the text is, an answer within a second and little memory."""

from __future__ import annotations

import re
from typing import Any

import yaml

from raysft.errors import RecipeError

MOST_BYTES = 200_000
"""Bytes of the largest recipe that is read; the largest that we know of has 4,000."""
DEEPEST = 50
"""Mappings and lists inside each other."""
MOST_BITS = 63
"""Bits of the largest whole number."""
MOST_NODES = 10_000
"""Values, each alias counted as all that it stands for."""


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads `1e-3` as a number, as YAML 1.2 does, and refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [str(key.value) for key, _ in node.value]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            lines = [str(key.start_mark.line + 1) for key, _ in node.value if key.value == twice[0]]
            raise RecipeError(
                f"the key {twice[0]!r} stands twice",
                got=f"lines {' and '.join(lines)}",
                expected="every key once",
                fix="keep one of them",
            )
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        value: int = super().construct_yaml_int(node)
        if value.bit_length() > MOST_BITS:
            raise ValueError(f"line {node.start_mark.line + 1}: a number of {value.bit_length()} bits")
        return value


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:float"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.\d*|\.\d+|\d+)([eE][-+]?\d+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"),
    list("-+0123456789."),
)


def parse_yaml(text: str, where: str) -> Any:
    """The value of one document. where: what the text is, for the message. Raises RecipeError."""
    if len(text) > MOST_BYTES:
        raise _too_large(where, f"more than {MOST_BYTES:,} characters")
    try:
        _check_events(text, where)
        _check_size(yaml.compose(text, Loader=_Loader), where)
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        got = " ".join(str(error).replace('in "<unicode string>", ', "at ").split())
    except (ValueError, OverflowError) as error:  # a date that is none, a number of thousands of digits
        got = str(error)
    raise RecipeError(
        f"{where} is not YAML",
        got=got,
        expected="YAML: `key: value` lines, spaces for indentation",
        fix="mend that line",
    )


def _check_events(text: str, where: str) -> None:
    """Events come one after the other; what is built from them calls itself."""
    depth = 0
    for number, event in enumerate(yaml.parse(text, Loader=_Loader)):
        if number > 2 * MOST_NODES:  # a collection has two
            raise _too_large(where, f"more than {MOST_NODES:,} values")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > DEEPEST:
            raise _too_large(where, f"more than {DEEPEST} levels of mappings and lists")


def _check_size(root: yaml.Node | None, where: str) -> None:
    """What the text stands for when every alias is written out."""
    sizes: dict[int, int] = {}

    def size(node: yaml.Node, above: frozenset[int]) -> int:
        if id(node) in above:
            raise _too_large(where, "an alias inside of what it stands for")
        if id(node) not in sizes:
            below, inside = above | {id(node)}, 1
            for child in node.value if isinstance(node, yaml.CollectionNode) else ():
                for part in child if isinstance(child, tuple) else (child,):
                    inside += size(part, below)
                    if inside > MOST_NODES:
                        raise _too_large(where, f"more than {MOST_NODES:,} values, aliases written out")
            sizes[id(node)] = inside
        return sizes[id(node)]

    if root is not None:
        size(root, frozenset())


def _too_large(where: str, got: str) -> RecipeError:
    return RecipeError(
        f"{where} is too large for a recipe",
        got=got,
        expected=f"at most {MOST_BYTES:,} characters, {DEEPEST} levels and {MOST_NODES:,} values",
        fix="data belongs into files that data.train names",
    )
