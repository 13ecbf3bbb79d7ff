"""Which of a user's modules travel: those that Python finds here and nobody installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from raysft.recipe.load import parse_recipe
from raysft.recipe.schema import Recipe
from raysft.submit.parcel import job_request
from raysft.submit.user_code import own_modules


def with_functions(*functions: str) -> Recipe:
    rules = [{"rule": "map", "function": function} for function in functions]
    return parse_recipe(
        {
            "name": "a",
            "storage": "s3://a",
            "model": {"source": "a/b"},
            "data": {"train": "s3://a/b.jsonl", "rules": rules},
        }
    )


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    package = tmp_path / "code" / "rules_of_mine"
    (package / "__pycache__").mkdir(parents=True)
    (package / "__pycache__" / "x.pyc").write_text("")
    (package / "words.txt").write_text("a")
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    (package / "short.py").write_text("def f(c, r): return c")
    (tmp_path / "code" / "one_file_of_mine.py").write_text("raise SystemExit('imported')")
    return tmp_path


def test_own_modules_travel_and_are_not_imported(here: Path) -> None:
    recipe = with_functions("rules_of_mine.short:f", "one_file_of_mine:f", "one_file_of_mine:g", "rules_of_mine:h")
    folder = here / "parcel"
    folder.mkdir()
    request = job_request(recipe, "train", [], {}, folder)
    sent = {str(path.relative_to(request.working_dir)) for path in Path(request.working_dir).rglob("*.*")}
    package = {f"rules_of_mine/{name}" for name in ("__init__.py", "short.py", "words.txt")}
    assert sent == {"recipe.yaml", "one_file_of_mine.py", *package}


@pytest.mark.parametrize(
    "function", ["json:dumps", "yaml.scanner:f", "nowhere_at_all.x:f", "sys:exit", "numpy:abs", "raysft.x:f"]
)
def test_what_is_installed_or_not_here_is_the_images(here: Path, function: str) -> None:
    assert own_modules(with_functions(function)) == []
    assert own_modules(with_functions()) == []
