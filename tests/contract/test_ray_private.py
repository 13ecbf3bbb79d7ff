"""docs/reference/ray-private.md holds every use of a name that Ray does not promise; the sources say which those are.

Found by AST: imports from modules that are not PUBLIC; attributes with `_` in modules that import ray; methods with
`_` that a class made from one of Ray's overrides; in strings Ray's modules, environment variables, resource labels.
Not found: attributes without `_` of objects that came out of such a name. The table's text tells of them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "platform" / "raysft"
TABLE = ROOT / "docs" / "reference" / "ray-private.md"

PUBLIC = {
    *("ray", "ray.data", "ray.exceptions", "ray.train", "ray.train.torch", "ray.tune", "ray.tune.search"),
    *("ray.util.placement_group", "ray.util.metrics", "ray.job_submission"),
}
"""Modules that Ray's API reference names."""

DOCUMENTED = {
    *("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"),
    *("RAY_USE_TLS", "RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT"),
}
"""Variables that its guides name."""
_MODULE = re.compile(r"ray(\.\w+)+")
_VARIABLE = re.compile(r"(RAY|TUNE|REPORTER)_\w+")
_LABEL = re.compile(r"node:__\w+__")
_HINT = re.compile(r"\bray\b|_[A-Z]|node:__")
"""Sources without it have nothing of Ray's, and need not be parsed."""


def private_names(source: str) -> set[str]:
    """Of one module."""
    if not _HINT.search(source):
        return set()
    tree = ast.parse(source)
    bound = dict(_bound(tree))
    of_ray = {name: target for name, target in bound.items() if target.split(".")[0] == "ray"}
    found = set(_imported(tree)) | set(_in_strings(tree))
    if of_ray:
        found |= set(_attributes(tree, bound)) | set(_overridden(tree, of_ray))
    return found


def _bound(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """(name in this module, what it was imported from)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (
                (a.asname or a.name.split(".")[0], a.name if a.asname else a.name.split(".")[0]) for a in node.names
            )
        elif isinstance(node, ast.ImportFrom):
            yield from ((alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names)


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if _is_private(alias.name))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ray":
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name for name in names if _is_private(str(node.module)) or "._" in name)


def _is_private(module: str) -> bool:
    return module.split(".")[0] == "ray" and module not in PUBLIC


def _attributes(tree: ast.AST, bound: dict[str, str]) -> Iterator[str]:
    """Chains of attributes with a `_` in them, as long as they are; without what is not imported from Ray."""
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or id(node) in inner:
            continue
        parts: list[str] = []
        root: ast.expr = node
        while isinstance(root, ast.Attribute):
            parts.insert(0, root.attr)
            root = root.value
        name = root.id if isinstance(root, ast.Name) else ""
        hidden = [part for part in parts if re.match(r"_[^_]", part)]
        if not hidden or name in ("self", "cls") or ast.unparse(root) == "super()":
            continue
        if bound.get(name, "ray").split(".")[0] == "ray":
            yield ".".join([bound[name], *parts]) if name in bound else hidden[0]


def _overridden(tree: ast.AST, of_ray: dict[str, str]) -> Iterator[str]:
    """Methods with `_` of classes made from Ray's. One that the class itself calls is its own."""
    for node in ast.walk(tree):
        bases = [ast.unparse(base) for base in node.bases] if isinstance(node, ast.ClassDef) else []
        known = [of_ray[base.split(".")[0]] for base in bases if base.split(".")[0] in of_ray]
        if not known or not isinstance(node, ast.ClassDef):
            continue
        called = {
            inner.attr
            for inner in ast.walk(node)
            if isinstance(inner, ast.Attribute) and ast.unparse(inner.value) == "self"
        }
        methods = [each.name for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]
        yield from (f"{known[0]}.{m}" for m in methods if re.match(r"_[^_]", m) and m not in called)


def _in_strings(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
            is_module = _MODULE.fullmatch(text) and text not in PUBLIC
            if is_module or (_VARIABLE.fullmatch(text) and text not in DOCUMENTED) or _LABEL.fullmatch(text):
                yield text


def rows() -> list[list[str]]:
    """Cells of the table: names, modules, why, upstream, test."""
    lines = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_the_table_is_whole_and_has_nothing_else() -> None:
    """What the left has more is new: write its row. What the right has more is gone, or has moved: mend the row."""
    used = {
        (name, str(path.relative_to(PACKAGE)))
        for path in sorted(PACKAGE.rglob("*.py"))
        for name in private_names(path.read_text(encoding="utf-8"))
    }
    assert len(used) > 30
    assert used == {(name, module) for cells in rows() for name in code(cells[0]) for module in code(cells[1])}


def test_private_names_have_one_doorway() -> None:
    """`runtime/` alone reaches into Ray; besides it the kinds of Ray's failures are known by their classes, and pods
    have variables."""
    doors = {module for cells in rows() for module in code(cells[1]) if not module.startswith("runtime/")}
    assert doors == {"run/ray_failures.py", "kube/pods.py"}
    errors = {name for cells in rows() if "`run/ray_failures.py`" in cells[1] for name in code(cells[0])}
    assert {name for name in errors if not name.endswith("Error")} == set()


def test_each_row_says_why_and_names_a_test_that_exists() -> None:
    for cells in rows():
        assert len(cells) == 5, cells
        assert len(cells[2]) > 20, cells
        assert cells[3] == "none found" or re.search(
            r"https://(github\.com/ray-project/ray|docs\.ray\.io)/", cells[3]
        )
        for test in code(cells[4]):
            path, _, name = test.partition("::")
            assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), test
        assert code(cells[4]), cells


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import ray\nray._private.worker._global_node.kill()", {"ray._private.worker._global_node.kill"}),
        ("import ray as r\nr._private.x().y", {"ray._private.x"}),
        ("from ray._raylet import KEY", {"ray._raylet.KEY"}),
        ("from ray import _raylet", {"ray._raylet"}),
        ("import ray.core.generated.gcs_pb2", {"ray.core.generated.gcs_pb2"}),
        ("from ray.tune.execution import a\nb = a\nb._Cache = 1", {"ray.tune.execution.a", "_Cache"}),
        ("def f():\n    import ray.serve._private", {"ray.serve._private"}),
        ("from ray.tune.search import Searcher\nclass A(Searcher):\n    def _hidden(self): ...", None),
        (
            "from ray.tune.search import Searcher as S\nclass A(S):\n def a(self): self._own()\n def _own(self): ...",
            set(),
        ),
        ("import os, ray\nos._exit(1)\nray.get(1)\nself._x", set()),
        ("x = {'RAY_event_stats': '0', 'RAY_ADDRESS': ''}", {"RAY_event_stats"}),
        ("x = ['ray.actor', 'ray.tune', 'ray._private.workers.default_worker', 'ray is', 'raysft.x']", None),
        ("x = {'node:__internal_head__': 0.1}", {"node:__internal_head__"}),
        ("import torch\ntorch._C._x", set()),
    ],
)
def test_what_is_found(source: str, names: set[str] | None) -> None:
    expected = (
        names
        if names is not None
        else {
            "Searcher": {"ray.tune.search.Searcher._hidden"},
            "ray.actor": {"ray.actor", "ray._private.workers.default_worker"},
        }["Searcher" if "Searcher" in source else "ray.actor"]
    )
    assert private_names(source) == expected
