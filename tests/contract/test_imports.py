"""Every name that a script, a test or a module imports from raysft is there, also inside functions."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PLATFORM = ROOT / "platform"


def _modules() -> dict[str, set[str]]:
    """{module: the names that it defines or imports}."""
    found = {}
    for path in PLATFORM.rglob("*.py"):
        parts = path.relative_to(PLATFORM).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = set(_names(ast.parse(path.read_text())))
    return found


def _names(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef() | ast.FunctionDef():
                yield node.name
            case ast.Name(ctx=ast.Store()):
                yield node.id
            case ast.Import() | ast.ImportFrom():
                yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)


def _missing(path: Path, modules: dict[str, set[str]]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("raysft"):
            continue
        for alias in node.names:
            known = modules.get(str(node.module))
            is_lazy = node.module == "raysft"  # its verbs are found when they are asked for
            if known is None or not (is_lazy or alias.name in known or f"{node.module}.{alias.name}" in modules):
                yield f"{path.relative_to(ROOT)}:{node.lineno}: {node.module}.{alias.name}"


def test_every_import_from_the_package_is_there() -> None:
    modules = _modules()
    sources = [
        path for folder in ("platform", "tests", "benchmarks", "jobs") for path in (ROOT / folder).rglob("*.py")
    ]
    assert len(sources) > 400
    assert [line for path in sources for line in _missing(path, modules)] == []
    chaos = ROOT / "benchmarks" / "chaos.py"
    assert list(_missing(chaos, {name: set() for name in modules})) != []  # it can fail
