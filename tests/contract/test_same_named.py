"""The tests of a module lie in a file of its name, in the folder of its name: who looks for them finds them.

`platform/raysft/data/read/web.py` is tested by `tests/unit/data/read/test_web.py`; the code of a package's `__init__`
by `test_<package>.py`, inside of its folder or beside it.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE, UNIT = ROOT / "platform" / "raysft", ROOT / "tests" / "unit"

ELSEWHERE = {
    # What needs several processes, DeepSpeed among them: its losses are compared with a bare PyTorch loop.
    **dict.fromkeys(("engine/adam.py", "engine/choose.py", "engine/zero.py"), "tests/parity/test_parity.py"),
    "engine/pipeline.py": "tests/parity/test_pipeline.py",
    "engine/shared_base.py": "tests/parity/test_fused.py",
    "engine/tensor.py": "tests/parity/test_tensor.py",
    "model/methods/__init__.py": "tests/parity/test_methods.py",
    "train/shared_trials.py": "tests/parity/test_fused.py",
    # What raises barriers around its process.
    **dict.fromkeys(
        ("sandbox/answer_side.py", "sandbox/barriers.py", "sandbox/inside.py"), "tests/unit/sandbox/test_jail.py"
    ),
    # What starts Ray.
    "runtime/trainer.py": "tests/unit/runtime/test_ray_private.py",
    # Tables and the shape of values, which their users are tested with.
    "data/read/kinds.py": "tests/contract/test_kinds.py",
    "engine/protocol.py": "tests/unit/train/test_loop.py",
    "model/fast/autograd.py": "tests/unit/model/fast/test_low_rank.py",
    "objectives/objective.py": "tests/unit/objectives/test_view.py",
    "recipe/columns.py": "tests/unit/data/store/test_packed_rows.py",
    "recipe/facts.py": "tests/unit/model/test_facts.py",
    "recipe/families.py": "tests/unit/model/test_families.py",
    "recipe/kinds.py": "tests/contract/test_kinds.py",
    "recipe/sections/export.py": "tests/unit/model/test_export.py",
}
"""{module: where its tests are}, each for a reason."""

AT_LEAST = 0.85
"""Share of the modules with a test of their name in its place."""


def has_code(module: Path) -> bool:
    """More than a docstring? `__main__` only calls."""
    body = ast.parse(module.read_text(encoding="utf-8")).body
    code = [node for node in body if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))]
    return bool(code) and module.name != "__main__.py"


def places(module: Path) -> list[Path]:
    """Where the tests of a module may be."""
    folder = UNIT / module.parent.relative_to(PACKAGE)
    if module.name == "__init__.py":
        name = f"test_{module.parent.name}.py"
        return [folder / name, folder.parent / name]
    return [folder / f"test_{module.stem}.py"]


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if has_code(path))
WITHOUT = [str(path.relative_to(PACKAGE)) for path in MODULES if not any(map(Path.is_file, places(path)))]


def test_nearly_every_module_has_a_test_of_its_name() -> None:
    share = 1 - len(WITHOUT) / len(MODULES)
    unknown = [name for name in WITHOUT if name not in ELSEWHERE]
    assert share >= AT_LEAST, f"{share:.1%} of {len(MODULES)} modules; without one: {', '.join(unknown)}"


@pytest.mark.parametrize("name", sorted(ELSEWHERE))
def test_a_module_that_is_tested_elsewhere_is_there_and_so_is_its_test(name: str) -> None:
    assert (PACKAGE / name).is_file()
    assert (ROOT / ELSEWHERE[name]).is_file()
    assert name in WITHOUT, "it has a test of its own now: take it out of the list"
