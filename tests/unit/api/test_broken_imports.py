"""A broken optional package is named, with what to do; other errors stay what they are."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import raysft
from raysft.api.broken_imports import broken_import


def make_package(folder: Path, name: str, version: str, body: str) -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(body)
    described = folder / f"{name}-{version}.dist-info"
    described.mkdir()
    (described / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def as_transformers_does(name: str) -> None:
    try:
        importlib.import_module(name)
    except RuntimeError as error:
        raise ModuleNotFoundError("Could not import module 'PreTrainedModel'") from error


def test_a_package_that_raises_when_it_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of the package is the cause of one that names no package."""
    make_package(tmp_path, "xformers", "0.1", "raise RuntimeError('operator does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError) as caught:
        as_transformers_does("xformers")
    found = broken_import(caught.value)
    assert found is not None
    assert found.what.startswith("the installed package xformers cannot be used")
    assert found.got == "RuntimeError: operator does not exist"
    assert found.fix.startswith("pip uninstall xformers")


def test_what_peft_says_of_an_old_version() -> None:
    found = broken_import(ImportError("Found an incompatible version of torchao. Found version 0.3.0"))
    assert found is not None
    assert "torchao" in found.fix


@pytest.mark.parametrize("error", [ValueError("torchvision"), ImportError("No module named 'numpy'"), KeyError("a")])
def test_other_errors_are_other_errors(error: Exception) -> None:
    assert broken_import(error) is None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a recipe, and a torchvision that was made for another torch in `site`."""
    make_package(tmp_path / "site", "torchvision", "0.1", "raise RuntimeError('operator torchvision::nms is not')")
    (tmp_path / "r.yaml").write_text("{name: a, model: {source: .}, data: {train: t.jsonl}}")
    return tmp_path


def run(folder: Path, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    whole = f"import sys; sys.path.append({str(folder / 'site')!r}); {program}"
    return subprocess.run(
        [sys.executable, "-c", whole, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


def test_a_command_ends_with_the_fix(folder: Path) -> None:
    done = run(folder, "from raysft.cli import main; sys.exit(main())", "check", "r.yaml")
    assert done.returncode == 2
    assert "the installed package torchvision cannot be used" in done.stderr
    assert "fix: pip uninstall torchvision" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_verb_raises_it_as_what_the_caller_can_mend(folder: Path) -> None:
    done = run(folder, "import raysft; raysft.check(raysft.load('r.yaml'))")
    last = done.stderr[done.stderr.rindex("raysft.errors.") :]
    assert last.startswith("raysft.errors.ModelError: the installed package torchvision cannot be used")
    assert "fix: pip uninstall torchvision" in last


def test_a_verb_is_what_it_was() -> None:
    assert raysft.check.__doc__
    assert list(inspect.signature(raysft.train).parameters) == ["recipe", "profile_steps"]
