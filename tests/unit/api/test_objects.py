"""What verbs return: the same numbers as the command line's, shown in a notebook without letting data in."""

from __future__ import annotations

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from commands import json_lines, write_material
from commands import raysft as command
from fakes import recipe_8b

import raysft
from raysft.api.studies import study_of
from raysft.api.tables import frame, shown, table_html
from raysft.errors import DataError, ModelError, UserError
from raysft.observe.tune_report import SearchFacts, TrialFacts
from raysft.search.command import SearchResult

EVIL = "<script>alert('x')</script> & \x1b[31m"


class _Reader(HTMLParser):
    """Tags and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_material(tmp_path_factory.mktemp("user"))


def test_a_preview_is_text_and_colour_and_lets_no_markup_in(capsys, path: Path, tmp_path: Path) -> None:
    data = tmp_path / "evil.jsonl"
    data.write_text(json_lines({"instruction": EVIL, "output": f"answer {EVIL}"}))
    recipe = raysft.load(path, {"data.train": data, "data.max_tokens": 256})
    seen = raysft.preview(recipe, 1)
    ran = command(
        capsys, "preview", path, "--num", "1", "--set", f"data.train={data}", "--set", "data.max_tokens=256"
    )
    assert ran.out == str(seen) + "\n"
    assert "[[answer <script>" in str(seen)
    page = _Reader(seen._repr_html_())
    assert page.tags == {"pre", "span"}
    assert page.text.strip() == seen.colored.plain.strip()
    assert "answer <script>alert('x')</script> & \\u001b[31m" in page.text
    assert "[[" not in page.text


def test_a_preview_without_a_sample_says_so(path: Path, tmp_path: Path) -> None:
    data = tmp_path / "bad.jsonl"
    data.write_text("{broken\n")
    seen = raysft.preview(raysft.load(path, {"data.train": data}), 1)
    assert (seen.num_samples, seen.refused) == (0, "malformed_json")
    with pytest.raises(DataError, match="none of these records"):
        seen.check(1)


def test_a_plan_has_the_numbers_of_the_command(capsys, tmp_path: Path) -> None:
    recipe = recipe_8b(8)
    found = raysft.plan(recipe, "8xH100-80G")
    layouts = found.to_json()["layouts"]
    assert len(found.rows) == len(layouts)
    for row, layout in zip(found.rows, layouts, strict=True):
        assert row.memory_gib * 2**30 == pytest.approx(layout["memory_bytes"]["total"])
        assert row.tokens_per_s == layout["time"]["tokens_per_s"]
        assert row.replicas * row.tensor * row.pipeline * row.sequence == 8
    assert found.best == found.rows[0]
    assert found.recipe().parallel.zero == found.best.zero
    assert found.recipe().cluster.workers == 8
    assert found.own is not None
    assert found.rows[found.own].zero == recipe.parallel.zero
    assert str(found) == "\n".join(found.lines())
    assert "fastest" in str(found)
    page = _Reader(found._repr_html_())
    assert {"table", "caption", "th", "td"} <= page.tags
    assert "8 x H100-80G" in page.text
    nothing = raysft.plan(recipe_8b(1), "1xL4-24G")
    assert nothing.best is None
    assert "none fits" in str(nothing)


def test_a_frame_needs_pandas_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    records = [{"a": 1, "b": None}, {"a": 2, "b": 0.5}]
    pandas = pytest.importorskip("pandas")
    assert list(frame(records)["a"]) == [1, 2]
    assert isinstance(frame(records), pandas.DataFrame)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match="needs pandas"):
        frame(records)


def test_a_table_escapes_every_text() -> None:
    page = table_html(EVIL, [EVIL], [[EVIL, 1, 0.123456789, None, True]], marked=0)
    assert _Reader(page).tags == {"table", "caption", "thead", "tr", "th", "tbody", "td"}
    assert page.count("&lt;script&gt;") == 3
    assert [shown(value) for value in (1234567, 0.123456789, None, True, False)] == [
        "1,234,567",
        "0.123457",
        "",
        "yes",
        "no",
    ]


def test_a_check_is_what_the_command_prints(capsys, path: Path) -> None:
    found = raysft.check(raysft.load(path))
    ran = command(capsys, "check", path)
    assert ran.out == str(found) + "\n"
    assert (found.model_type, found.total_steps) == ("llama", 2)
    assert found.location == str(path.parent / "storage" / "runs" / "tiny")
    num_parameters = 270 * 32 * 2 + 4 * 32 * 32 + 3 * 32 * 64 + 3 * 32
    assert re.findall(r"([\d,]+) parameters", str(found)) == [f"{num_parameters:,}"]
    assert _Reader(found._repr_html_()).tags >= {"table", "td"}


def test_errors_are_the_same_tree(path: Path) -> None:
    with pytest.raises(UserError) as caught:
        raysft.evaluate(raysft.load(path))
    assert "no model to evaluate" in str(caught.value)
    with pytest.raises(ModelError):
        raysft.preview(raysft.load(path, {"model.tokenizer": "no-tokenizer"}))
    with pytest.raises(UserError, match="tune"):
        raysft.tune(raysft.load(path))


def test_a_tokenizer_is_trained_and_told(path: Path, tmp_path: Path) -> None:
    made = raysft.train_tokenizer([path.parent / "data.jsonl"], tmp_path / "tok", vocab_size=270)
    assert made.num_tokens == len(made.tokenizer)
    assert json.loads((tmp_path / "tok" / "tokenizer.json").read_text())["model"]["type"] == "BPE"


def test_a_study_names_its_best_and_every_cost() -> None:
    trials = [
        TrialFacts(0, {"optimizer.learning_rate": 0.1}, "finished", (2.0,), [(1, 2.5), (2, 2.0)], 3.0, 6.0, 0.0, ""),
        TrialFacts(1, {"optimizer.learning_rate": 0.2}, "failed", (), [], 1.0, 2.0, 0.0, EVIL),
        TrialFacts(2, {"optimizer.learning_rate": 0.3}, "finished", (1.0,), [(2, 1.0)], 3.0, 6.0, 0.0, ""),
    ]
    facts = SearchFacts(
        "s", ["held_out_loss"], ["min"], ["optimizer.learning_rate"], trials, (2,), {"held_out_loss": {}}
    )
    study = study_of(SearchResult(facts, "/d", None, "/d/report.html", None))
    assert study.best is not None
    assert (study.best.number, study.best.values) == (2, {"held_out_loss": 1.0})
    assert study.best.point == {"optimizer.learning_rate": 0.3}
    assert study.metrics == {"held_out_loss": "min"}
    assert [trial.state for trial in study.trials] == ["finished", "failed", "finished"]
    page = study._repr_html_()
    assert "<script>" not in page
    assert page.count("font-weight: bold") == 1
    assert "report       /d/report.html" in str(study)
    empty = study_of(SearchResult(SearchFacts("s", ["l"], ["min"], [], [], (), {}), "/d", None, "/d/r", None))
    assert empty.best is None
