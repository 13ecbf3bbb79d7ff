"""A broken optional package is named, with what to do; other errors stay what they are."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from raysft.cli.broken_imports import broken_import


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


def test_a_command_ends_with_the_fix(tmp_path: Path) -> None:
    make_package(tmp_path / "site", "torchvision", "0.1", "raise RuntimeError('operator torchvision::nms is not')")
    (tmp_path / "r.yaml").write_text("{name: a, model: {source: .}, data: {train: t.jsonl}}")
    program = (
        f"import sys; sys.path.append({str(tmp_path / 'site')!r}); from raysft.cli import main; sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "check", "r.yaml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "the installed package torchvision cannot be used" in done.stderr
    assert "fix: pip uninstall torchvision" in done.stderr
    assert "Traceback" not in done.stderr
