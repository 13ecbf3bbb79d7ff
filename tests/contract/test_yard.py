"""What stands round the house is true: owners, workflows, hooks, metadata name what exists."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import raysft

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def commands(path: Path) -> list[str]:
    """What a workflow runs, with every value of its matrix."""
    found = []
    for job in yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].values():
        matrix = job.get("strategy", {}).get("matrix", {}).get("command", [])
        runs = [step["run"] for step in job["steps"] if "run" in step]
        found += [command for run in runs for command in (matrix if run == "${{ matrix.command }}" else [run])]
    return found


def test_owners_have_every_room_and_nothing_that_is_gone() -> None:
    lines = (ROOT / ".github" / "CODEOWNERS").read_text(encoding="utf-8").splitlines()
    paths = {line.split()[0] for line in lines if line and not line.startswith("#")} - {"*"}
    assert [path for path in paths if not (ROOT / path.strip("/")).is_dir()] == []
    rooms = {p.name for p in (ROOT / "platform" / "raysft").iterdir() if (p / "__init__.py").is_file()}
    assert {f"/platform/raysft/{room}/" for room in rooms} <= paths


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_run_what_is_there_and_know_no_secret(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "secrets." not in text
    assert yaml.safe_load(text)["permissions"] == {"contents": "read"}
    assert commands(path)
    for command in commands(path):
        words = command.split()
        if words[0] == "make":
            assert words[1] in TARGETS, command
        elif words[0] != "ls":
            assert (ROOT / words[0]).is_file(), command


def test_ci_and_the_workflow_are_the_same_check() -> None:
    assert commands(ROOT / ".github" / "workflows" / "check.yml") == [".ci/run"]
    assert "exec make check" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_hooks_are_tools_of_the_development_environment() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert [repo["repo"] for repo in hooks] == ["local"], "nothing is fetched"
    tools = {hook["entry"].split()[0].removeprefix(".venv/bin/") for hook in hooks[0]["hooks"]}
    of_hooks = {"end-of-file-fixer", "trailing-whitespace-fixer", "check-added-large-files"}
    development = set(PROJECT["project"]["optional-dependencies"]["dev"])
    assert tools - of_hooks <= development
    assert {"pre-commit", "pre-commit-hooks"} <= development


def test_the_version_stands_in_one_place() -> None:
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "raysft.__version__"}
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", raysft.__version__)


def test_each_python_that_is_allowed_is_tested() -> None:
    low, high = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", PROJECT["project"]["requires-python"]).groups()  # type: ignore[union-attr]
    allowed = {f"3.{minor}" for minor in range(int(low), int(high))}
    texts = [path.read_text(encoding="utf-8") for path in WORKFLOWS]
    assert {version for text in texts for version in re.findall(r'python-version: "(.*)"', text)} == allowed
    classified = {c.rpartition(" ")[2] for c in PROJECT["project"]["classifiers"] if re.search(r":: 3\.\d+$", c)}
    assert classified == allowed


def test_one_address_of_the_project() -> None:
    """It moves by one search for raysft/raysft."""
    assert all(url.startswith("https://github.com/raysft/raysft") for url in PROJECT["project"]["urls"].values())


def test_every_dependency_is_pinned_and_has_a_reason() -> None:
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").lower().replace("_", "-")
    reasons = (ROOT / "docs" / "decisions" / "dependencies.md").read_text(encoding="utf-8").lower()
    extras = PROJECT["project"]["optional-dependencies"]
    for wanted in (*PROJECT["project"]["dependencies"], *extras["dev"]):
        name = re.split(r"[\[><=~! ]", wanted)[0].lower()
        assert f"\n{name.replace('_', '-')}==" in pins, name
        assert name in reasons, f"{name} needs its line in dependencies.md"


def test_pages_lead_to_files_that_exist() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    dead = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in pages
        for target in re.findall(r"\]\((?!https?://|#|mailto:)([^)#\s]+)", page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]
    assert len(pages) > 30
    assert dead == []


def test_files_that_pages_and_docstrings_name_with_their_folder_exist() -> None:
    """After a move they still lead somewhere. The log tells of the day of its writing."""
    history = {"CHANGELOG.md", "log.md", "benchmarks.md"}
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "platform").rglob("*.py")]
    files = "\n".join(f"/{path.relative_to(ROOT)}\n" for path in ROOT.rglob("*.py") if ".venv" not in path.parts)
    rooms = sorted(path.name for path in (ROOT / "platform" / "raysft").iterdir() if path.is_dir())
    named = re.compile(rf"(?<![\w/.-])((?:tests|benchmarks|jobs|raysft|{'|'.join(rooms)})/(?:\w+/)*[a-z_0-9]+\.py)\b")
    gone = [
        f"{page.relative_to(ROOT)}: {name}"
        for page in pages
        if page.name not in history and "__pycache__" not in page.parts
        for name in named.findall(page.read_text(encoding="utf-8"))
        if f"/{name}\n" not in files
    ]
    assert gone == []
