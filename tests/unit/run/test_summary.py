"""What a run's records say is wrong with it, down to the lines of the data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import make_recipe, step_info
from html_page import Page
from run_dirs import DATA, make_run, recipe_of

from raysft import storage
from raysft.errors import InterruptedRunError, ModelError
from raysft.run.rundir import claim
from raysft.run.summary import MOST_PLACES, RunReport, diagnosis
from raysft.train.commits.layout import attempt_path
from raysft.train.history.records import Records, StartFacts
from raysft.train.state import TrainState

BAD = 40


def write_run(run: Path, samples: dict[int, tuple[int, ...]]) -> None:
    storage.write_json(attempt_path(str(run), 1), {"number": 1, "parent": None})
    records = Records(str(run), 1, 0)
    records.start(StartFacts(0, 2, 1.25, 1e12, "guessed"))
    for step in range(1, 61):
        loss = 9.0 if step == BAD else 2.0 + 3.0 / step + 0.01 * (step % 3)
        ids = samples.get(step, (0,))
        records.step(step_info(step, state=TrainState(step=step), loss=loss, grad_norm=1.0, sample_ids=ids))
    records.flush()


def test_the_samples_of_a_bad_batch_are_told_by_file_and_line(tmp_path: Path) -> None:
    lines = [json.dumps({"instruction": f"say {i}", "output": "x"}) + "\n" for i in range(9)]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(lines))
    offset = len("".join(lines[:5]))  # the sample's id in the first file
    recipe = make_recipe(data={"train": str(data)})
    write_run(tmp_path / "run", {BAD: (offset, 0)})
    findings, places = diagnosis(str(tmp_path / "run"), recipe)
    assert [one.rule for one in findings] == ["bad_batch"]
    assert findings[0].steps == (BAD,)
    assert places == {BAD: [f"{data}:1", f"{data}:6"]}
    data.unlink()
    _, places = diagnosis(str(tmp_path / "run"), recipe)
    assert places == {BAD: ["sample 0", f"sample {offset}"]}


def test_of_many_samples_the_first_are_named(tmp_path: Path) -> None:
    write_run(tmp_path / "run", {BAD: tuple(range(20))})
    recipe = make_recipe(data={"train": str(tmp_path / "gone.jsonl")})
    _, places = diagnosis(str(tmp_path / "run"), recipe)
    assert places[BAD] == [*(f"sample {i}" for i in range(MOST_PLACES)), f"{20 - MOST_PLACES} more"]


def told_report(storage_at: Path) -> tuple[RunReport, Path]:
    run, recipe = make_run(storage_at, "one", 1), recipe_of(storage_at, "one", 1)
    prints = claim(str(run), recipe, DATA)
    return RunReport(str(run), recipe, ["8 rows a step"], ["refused 3"], prints), run / "report.html"


def test_the_page_says_how_a_run_stands(tmp_path: Path) -> None:
    report, page = told_report(tmp_path)
    report.keep()
    text = page.read_text()
    assert 'http-equiv="refresh"' in text
    assert "as of 20" in Page(text).text
    for error, status, why in (
        (InterruptedRunError("asked to stop; step 4 is committed"), "stopped", "step 4 is committed"),
        (KeyboardInterrupt(), "stopped", "KeyboardInterrupt"),
        (ModelError("s3://key:word@bucket is torn", got="x"), "failed", "s3://***@bucket is torn"),
        (ValueError("at https://me:word@host/"), "failed", "https://***@host/"),
    ):
        with pytest.raises(type(error)), report.kept():
            raise error
        text = page.read_text()
        assert f'<span class="status {status}">' in text
        assert why in Page(text).text
        assert "http-equiv" not in text
    report.write("finished")
    told = Page(page.read_text()).text
    assert "weight_decay: 0.0" in told, "fields with their default stand there"
    assert "8 finished" in told, "the last attempt"


def test_a_page_that_cannot_be_written_ends_no_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    report, page = told_report(tmp_path)
    page.unlink()
    page.mkdir()
    (page / "in the way").touch()
    report.keep()
    assert "report.html is not up to date" in caplog.text
    strange = replace(report, certificate=3)  # type: ignore[arg-type]  # what no page expects
    caplog.clear()
    with pytest.raises(ModelError, match="the cause"), strange.kept():
        raise ModelError("the cause")
    assert "TypeError" in caplog.text


def test_a_page_reads_each_record_of_steps_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, of_steps = [], storage.read_bytes
    told, run = told_report(tmp_path)
    monkeypatch.setattr(storage, "read_bytes", lambda location: read.append(location) or of_steps(location))
    told.page("running")
    files = [str(file) for room in ("metrics", "goodput") for file in (run / room).glob("attempt-*")]
    assert {file: read.count(file) for file in files} == dict.fromkeys(files, 1)
