"""The dependency law of ARCHITECTURE.md, section 1, read from the sources: who may import whom, and what."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "platform" / "raysft"

DATA = {
    *("data.records", "data.notes", "data.hashing", "data.on_ray"),
    *("recipe", "exports", "lease", "sealed", "storage", "errors"),
}
"""What every room of data/ sees, besides the rooms below it."""

# The law: a layer sees itself and what stands here. Keys are module prefixes, the longest that fits counts.
SEES = {
    "raysft": {
        "api.verbs",
        "evaluate.sampling",
        "recipe.schema",
        "recipe.change",
        "errors",
    },  # for the type checker; at run time only lazily
    "raysft.errors": set(),
    "raysft.storage": {"errors"},
    "raysft.metrics": {"errors"},
    "raysft.recipe": {"metrics", "errors"},
    "raysft.appended": {"errors"},
    "raysft.outputs": {"storage", "errors"},
    "raysft.addresses": set(),
    "raysft.lines": {"storage", "errors"},
    "raysft.sealed": {"lines", "storage", "errors"},
    "raysft.exports": {"storage", "errors"},
    "raysft.lease": {"storage", "errors"},
    "raysft.data": {"recipe", "exports", "lease", "sealed", "storage", "errors"},
    "raysft.data.read": DATA,
    "raysft.data.formats": {*DATA, "data.read"},
    "raysft.data.text": {*DATA, "data.formats", "data.read"},
    "raysft.data.store": {*DATA, "data.formats", "data.read"},
    "raysft.data.rules": {*DATA, "data.store", "data.read"},
    "raysft.data.prepare": {*DATA, "data.rules", "data.store", "data.text", "data.formats", "data.read"},
    "raysft.data.feed": {*DATA, "data.prepare", "data.store", "data.read"},
    "raysft.data.report": {
        *DATA,
        "data.prepare",
        "data.rules",
        "data.store",
        "data.text",
        "data.formats",
        "data.read",
    },
    "raysft.model": {"recipe", "exports", "sealed", "storage", "errors"},
    "raysft.objectives": {"metrics", "model", "recipe", "errors"},
    "raysft.engine": {"objectives", "model", "recipe", "errors"},
    "raysft.train": {"engine", "objectives", "model", "recipe", "sealed", "lines", "storage", "errors"},
    "raysft.train.loop": {"train", "engine.protocol", "objectives.batch"},
    "raysft.train.hooks": {"train"},
    "raysft.train.state": {"train"},
    "raysft.train.assembly": {"train", "evaluate", "objectives", "model", "data", "recipe", "storage", "errors"},
    "raysft.train.engine_check": {"engine", "objectives", "data", "recipe", "errors"},
    "raysft.train.worker": {"train", "engine", "objectives", "model", "data", "recipe", "storage", "errors"},
    "raysft.evaluate": {"metrics", "sandbox", "recipe", "model", "data", "appended", "outputs", "storage", "errors"},
    "raysft.observe": {"recipe", "model", "data", "storage", "errors"},
    "raysft.planner": {"recipe", "errors"},
    "raysft.kube": {"planner", "recipe", "errors"},
    "raysft.runtime": {"data", "train", "recipe", "addresses", "storage", "errors"},
    "raysft.doctor": {"runtime", "recipe", "storage", "errors"},
    "raysft.doctor.facts": set(),
    "raysft.doctor.checks": {"doctor.facts"},
    "raysft.run": {
        *(
            "runtime",
            "train",
            "engine",
            "objectives",
            "model",
            "data",
            "recipe",
            "lease",
            "outputs",
            "sealed",
            "storage",
            "errors",
        ),
        *("evaluate", "metrics", "observe", "planner"),
    },
    "raysft.search": {
        *("run", "runtime", "train", "model", "data", "recipe", "lease", "sealed", "storage", "errors", "observe"),
    },
    "raysft.human": {"metrics", "data", "recipe", "outputs", "errors"},
    "raysft.judge": {"human", "addresses", "appended", "errors"},
    "raysft.sandbox": {"errors"},
    "raysft.submit": {
        "kube",
        "addresses",
        "runtime.job_client",
        "runtime.kubernetes_client",
        "observe.console",
        "recipe",
        "errors",
    },
    "raysft.api": {
        *("search", "run", "train", "evaluate", "metrics", "observe", "planner", "kube", "data", "model", "recipe"),
        *("doctor.facts", "storage", "outputs", "errors"),
    },
    "raysft.cli": {
        *(
            "api",
            "submit",
            "human",
            "judge",
            "doctor",
            "search",
            "run",
            "runtime",
            "data",
            "recipe",
            "storage",
            "errors",
            "evaluate",
            "model",
            "observe",
            "planner",
        ),
    },
}

# One library, one doorway. A library that stands here is imported below these modules only.
DOORWAYS = {
    "deepspeed": {"raysft.engine"},
    "peft": {"raysft.model.methods"},
    "bitsandbytes": {"raysft.model.methods.four_bit"},
    "liger_kernel": {"raysft.model.fast.liger"},
    "pandas": {"raysft.api"},
    "sacrebleu": {"raysft.metrics.bleu"},
    "nltk": {"raysft.metrics.meteor"},
    "optuna": {"raysft.search.study"},
    "cmaes": {"raysft.search.cmaes_sampler"},
    "resvg_py": {"raysft.observe.tune_charts"},
    "ray": {
        *("raysft.data.on_ray", "raysft.data.prepare.prepare", "raysft.data.feed.stream_server"),
        *("raysft.train.worker", "raysft.runtime", "raysft.run", "raysft.search"),
    },
    "kubernetes": {"raysft.runtime.kubernetes_client"},
    "fastapi": {"raysft.human.server"},
    "starlette": {"raysft.human.server"},
    "uvicorn": {"raysft.human.command"},
    "psycopg": {"raysft.human.store"},
    "tiktoken": {"raysft.data.text.bytepair"},
    "jinja2": {"raysft.data", "raysft.observe"},
    "pickle": set(),
    "mlflow": {"raysft.observe.trackers.mlflow"},
    "tensorboardX": {"raysft.observe.trackers.tensorboard"},
    "lm_eval": {"raysft.evaluate.harness"},
    "wandb": {"raysft.observe.trackers.wandb"},
}

# What a layer may import besides the standard library and raysft.
OUTSIDE = {
    "raysft.errors": set(),
    "raysft.metrics": {"numpy", "sacrebleu", "nltk"},
    "raysft.recipe": {"pydantic", "yaml"},
    "raysft.planner": set(),
    "raysft.kube": {"pydantic", "yaml"},
    "raysft.judge": {"requests"},
    "raysft.sandbox": set(),
    "raysft.human": {"fastapi", "starlette", "pydantic", "psycopg"},
    "raysft.submit": {"yaml", "requests", "kubernetes", "urllib3"},
    "raysft.storage": {"pyarrow", "fsspec"},
    "raysft.lines": {"pyarrow"},
    "raysft.sealed": {"orjson"},
    "raysft.observe": {"jinja2", "markupsafe", "resvg_py", "mlflow", "tensorboardX", "wandb"},
    "raysft.data.feed.step_plan": {"numpy"},
    "raysft.data.feed.collate": {"numpy"},
    "raysft.data.feed.replica_balance": {"numpy"},
    "raysft.data.store.mixture": {"numpy"},
    "raysft.data.store.packing": {"numpy"},
    "raysft.data.store.parts": {"numpy", "pyarrow"},
    "raysft.data.store.packed_rows": {"numpy", "pyarrow"},
    "raysft.train.loop": set(),
    "raysft.train.hooks": set(),
    "raysft.train.state": set(),
    "raysft.train.history.records": set(),
    "raysft.train.history.failures": set(),
    "raysft.doctor.facts": set(),
    "raysft.doctor.checks": set(),
}

# Imported inside functions of these modules: what the module says about it stands there.
IMPORTS_IN_FUNCTIONS_ALLOWED = {"raysft.cli", "raysft.api.verbs"}


RUNS_CODE = {"raysft.sandbox.answer_side", "raysft.sandbox.tests_side"}
"""Modules that exec() what they are given: in processes that have raised the barriers of the sandbox."""


@dataclass(frozen=True)
class Import:
    """`module` imports `target` (a module, or a name in one), at its top or inside a function."""

    module: str
    target: str
    in_function: bool

    @property
    def library(self) -> str:
        return self.target.split(".")[0]


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports_of(module: str, source: str) -> list[Import]:
    """Every import of a module. `from raysft.a import b` is an import of raysft.a.b where that is a module."""
    found: list[Import] = []

    def visit(node: ast.AST, in_function: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(module, alias.name, in_function) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import"
            assert node.module is not None
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.append(Import(module, full if full in MODULES else node.module, in_function))
        inside = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(ast.parse(source), False)
    return found


ALL = [found for name, path in MODULES.items() for found in imports_of(name, path.read_text(encoding="utf-8"))]


def below(module: str, prefix: str) -> bool:
    return module == prefix or module.startswith(f"{prefix}.")


def longest(module: str, table: dict[str, set[str]]) -> str | None:
    return max((prefix for prefix in table if below(module, prefix)), key=len, default=None)


def breaks_the_law(found: Import) -> bool:
    if found.library != "raysft" or found.target == "raysft":
        return False  # the root package holds the version only
    layer = longest(found.module, SEES)
    assert layer is not None
    own = {layer.removeprefix("raysft.")} if layer != "raysft" else set()
    return not any(below(found.target, f"raysft.{seen}") for seen in SEES[layer] | own)


def test_every_layer_is_in_the_table() -> None:
    layers = {".".join(name.split(".")[:2]) for name in MODULES}
    assert layers <= SEES.keys()


def test_imports_point_down() -> None:
    assert [found for found in ALL if breaks_the_law(found)] == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("raysft.recipe.load", "from raysft.data.feed.step_plan import StepPlan"),
        ("raysft.recipe.load", "from raysft import storage"),
        ("raysft.model.export", "from raysft.train.commits.checkpoint import Checkpoint"),
        ("raysft.model.export", "from raysft.data import plan"),
        ("raysft.data.feed.collate", "import raysft.model.fast.loss"),
        ("raysft.data.store.parts", "from raysft.data.prepare.encode import schema"),
        ("raysft.run.run", "from raysft.search.space import check_space"),
        ("raysft.runtime.join", "from raysft.run.run import run_training"),
        ("raysft.train.loop", "from raysft.data.feed.collate import Feed"),
        ("raysft.train.loop", "from raysft.engine.zero import ZeroEngine"),
        ("raysft.train.commits.checkpoint", "from raysft.data.store.parts import TokenStore"),
        ("raysft.evaluate.heldout", "from raysft.train.hooks import every"),
        ("raysft.planner.memory", "from raysft.engine.ds_config import deepspeed_config"),
        ("raysft.train.worker", "from raysft.planner.memory import predict"),
        ("raysft.observe.report", "from raysft.run.run import run"),
        ("raysft.train.worker", "from raysft.run.run import run"),
        ("raysft.engine.zero", "def f():\n    from raysft.train.loop import train"),
        ("raysft.errors", "from raysft.recipe.schema import Recipe"),
        ("raysft", "from raysft.cli import main"),
        ("raysft", "from raysft.api.runs import Run"),
        ("raysft.run.run", "from raysft.api.runs import Run"),
        ("raysft.api.runs", "from raysft.cli import main"),
    ],
)
def test_the_law_can_be_broken(module: str, line: str) -> None:
    assert [found for found in imports_of(module, line) if breaks_the_law(found)]


def test_no_import_cycles() -> None:
    edges: dict[str, set[str]] = {name: set() for name in MODULES}
    for found in ALL:
        target = found.target
        while target not in MODULES and "." in target:
            target = target.rpartition(".")[0]
        if target in MODULES and target != "raysft":
            edges[found.module].add(target)
    assert find_cycle(edges) is None
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": set()}) is not None
    assert find_cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None


def find_cycle(edges: dict[str, set[str]]) -> list[str] | None:
    """Take away what imports nothing that is left, again and again; a cycle cannot be taken away."""
    left = {name: set(targets) for name, targets in edges.items()}
    while free := [name for name, targets in left.items() if not targets & left.keys()]:
        for name in free:
            del left[name]
    return sorted(left) or None


def test_our_own_package_is_imported_at_the_top() -> None:
    hidden = [f for f in ALL if f.in_function and f.library == "raysft"]
    assert [f for f in hidden if f.module not in IMPORTS_IN_FUNCTIONS_ALLOWED] == []


def test_the_package_imports_nothing_until_it_is_used() -> None:
    """`import raysft` is fast: nothing of ours, nothing of others."""
    program = (
        "import sys\nbefore = set(sys.modules)\nimport raysft\n"
        "new = {name for name in set(sys.modules) - before if name.split('.')[0] not in sys.stdlib_module_names}\n"
        "sys.exit(f'imported {sorted(new)}' if new != {'raysft'} else 0)\n"
    )
    environment = {"PYTHONPATH": str(ROOT / "platform"), "PATH": "/usr/bin:/bin"}
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr


def behind(library: str) -> Iterator[Import]:
    return (f for f in ALL if f.library == library)


@pytest.mark.parametrize("library", DOORWAYS)
def test_a_library_has_one_doorway(library: str) -> None:
    strangers = [f for f in behind(library) if not any(below(f.module, door) for door in DOORWAYS[library])]
    assert strangers == []


def test_the_doorways_are_used() -> None:
    """A library that nobody imports any more should leave the table."""
    for library in ("deepspeed", "peft", "ray"):
        assert list(behind(library)), library


@pytest.mark.parametrize("layer", OUTSIDE)
def test_a_pure_layer_stays_pure(layer: str) -> None:
    modules = [name for name in MODULES if below(name, layer)]
    assert modules, f"{layer} is gone: mend the table"
    libraries = {f.library for f in ALL if f.module in modules} - set(sys.stdlib_module_names) - {"raysft"}
    assert libraries <= OUTSIDE[layer]


def test_data_does_not_know_torch() -> None:
    assert [f for f in behind("torch") if below(f.module, "raysft.data")] == []


def test_platform_stays_a_plain_folder() -> None:
    assert not (ROOT / "platform" / "__init__.py").exists()
    program = "import platform, sys; sys.stdout.write(platform.machine())"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout


def begins_with_of(source: str) -> list[int]:
    """Lines of docstrings, those below fields too, whose subject stands nowhere but in the name above them."""
    bodies = [
        node.body for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Module | ast.ClassDef | _DEFS)
    ]
    texts = [
        (node.value.value, node.lineno)
        for body in bodies
        for node in body
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    ]
    return [line for text, line in texts if isinstance(text, str) and text.startswith("Of ")]


_DEFS = ast.FunctionDef | ast.AsyncFunctionDef


@pytest.mark.parametrize("name", MODULES)
def test_a_docstring_says_its_subject(name: str) -> None:
    assert begins_with_of(MODULES[name].read_text(encoding="utf-8")) == []


def test_a_docstring_without_a_subject_is_found() -> None:
    assert begins_with_of('"""Of a module."""\nclass A:\n    x: int\n    """Of a field."""\n') == [1, 4]
    assert begins_with_of('def f():\n    """Of a call."""\n    return "Of no docstring"\n') == [2]


@pytest.mark.parametrize("name", MODULES)
def test_house_style(name: str) -> None:
    """A docstring in every module, at most 300 lines; functions of at most 60 lines (the loop 80), 6 parameters."""
    source = MODULES[name].read_text(encoding="utf-8")
    tree = ast.parse(source)
    assert ast.get_docstring(tree), f"{name} says not what it owns"
    assert len(source.splitlines()) <= 300, f"{name} is too long"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            arguments = node.args
            names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
            assert lines <= (80 if name == "raysft.train.loop" else 60), f"{name}.{node.name}: {lines} lines"
            positional = [
                a.arg for a in (*arguments.posonlyargs, *arguments.args) if a.arg not in ("self", "cls", "ctx")
            ]
            assert len(positional) <= 6, f"{name}.{node.name}: {names}"


@pytest.mark.parametrize("name", MODULES)
def test_no_print_no_getattr_default_no_unpickling(name: str) -> None:
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called == "getattr":
            assert len(node.args) == 2, f"{name}:{node.lineno}: getattr with a default"
        assert called != "print", f"{name}:{node.lineno}"
        assert called not in ("torch.load", "torch.save", "eval"), f"{name}:{node.lineno}: {called}"
        assert called != "exec" or name in RUNS_CODE, f"{name}:{node.lineno}: {called}"


def test_every_field_of_a_recipe_is_described_and_sections_are_small() -> None:
    from pydantic import BaseModel

    from raysft.recipe.schema import Recipe

    def check(section: type[BaseModel]) -> None:
        assert len(section.model_fields) <= 20, section.__name__
        for name, info in section.model_fields.items():
            kind = info.annotation
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                check(kind)
            else:
                assert info.description, f"{section.__name__}.{name}"

    check(Recipe)


def test_help_needs_no_torch_and_no_ray() -> None:
    program = (
        "import sys\nfrom raysft.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'ray', 'transformers', 'deepspeed', 'peft', 'pyarrow'} & set(sys.modules)\n"
        "sys.exit(f'imported {sorted(heavy)}' if heavy else 0)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT / "platform"), "PATH": "/usr/bin:/bin"},
        check=False,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", sorted(MODULES.keys() - {"raysft.train.history.paths"}))
def test_the_layout_of_a_run_has_one_owner(name: str) -> None:
    """Names of attempts' files are made and read by RunPaths; docstrings may show them."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    shown = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in shown:
            assert "attempt-" not in node.value, f"{name}:{node.lineno}: {node.value!r}"
