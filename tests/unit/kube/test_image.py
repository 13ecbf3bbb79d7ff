"""The image: what it copies is there, all is pinned, nobody is root, and Python is one that raysft takes."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "cluster" / "Dockerfile").read_text()
LINES = [line for line in TEXT.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
IGNORE = (ROOT / "cluster" / "Dockerfile.dockerignore").read_text().splitlines()


def test_what_is_copied_is_there_and_is_let_in() -> None:
    copied = [name for line in LINES if line.startswith("COPY") for name in line.split()[1:-1]]
    assert "platform" in copied
    for name in copied:
        assert (ROOT / name).exists()
        assert f"!{name}" in IGNORE
    assert IGNORE[0] == "*", "the rest of a checkout, with its data and tokens, does not travel"


def test_every_installation_is_pinned_and_every_extra_exists() -> None:
    installs = [line for line in LINES if "pip install" in line]
    assert len(installs) == 2
    assert all(re.search(r"--constraint (constraints|pins)\.txt", line) for line in installs)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (extras,) = re.findall(r"\.\[([a-z0-9,]+)\]", TEXT)
    assert set(extras.split(",")) <= set(project["optional-dependencies"])


def test_nobody_is_root_and_python_is_one_that_is_taken() -> None:
    last = [line for line in LINES if line.startswith("USER")][-1]
    assert int(last.split()[1]) >= 1000, "runAsNonRoot wants a number"
    assert LINES[0].startswith("FROM python:3.11")
