"""What a live view tells of a storage path, also of runs that are torn, foreign or just being written."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from html_page import Page
from run_dirs import make_run

from raysft.errors import UserError
from raysft.lease import lease
from raysft.run import live
from raysft.run.live import live_view


def test_runs_and_sweeps_are_told_as_they_stand(tmp_path: Path) -> None:
    for seed, name in enumerate(("alone", "search-0", "search-1")):
        make_run(tmp_path, name, seed)
    (tmp_path / "sweeps" / "search").mkdir(parents=True)
    (tmp_path / "runs" / "stranger").mkdir()
    under_way = tmp_path / "runs" / "alone"
    (under_way / "result.json").unlink()
    metrics = under_way / "metrics" / "attempt-0002.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:-30])
    with lease(str(under_way / "driver")):
        view = live_view(str(tmp_path))
        page = Page(view.home())
    assert page.open == []
    assert "script" not in page.tags
    links = [value for name, value in page.attributes if name == "href"]
    assert links == ["/runs/alone", "/runs/search-1", "/runs/search-0", "/sweeps/search"], "running, then new"
    assert "running" in page.text
    assert "search 2 0 -" in page.text, "two trials, none running"
    assert "stranger" not in page.text
    trials = Page(str(view.sweep("search")))
    assert [value for name, value in trials.attributes if name == "href"] == ["/", "/runs/search-0", "/runs/search-1"]
    for missing in (view.sweep("nothing"), view.run("nothing"), view.run("../runs/alone"), view.run("stranger")):
        assert missing is None


def test_a_run_has_its_report_made_from_its_records(tmp_path: Path) -> None:
    make_run(tmp_path, "one", 1)
    page = Page(str(live_view(str(tmp_path)).run("one")))
    assert page.open == []
    for text in ("all runs", "finished", "Gradient norm", "a worker died", "weight_decay: 0.0"):
        assert text in page.text, text
    assert "Batch arithmetic" not in page.text, "it stands in no record"


def test_what_was_just_read_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path, "one", 1)
    view = live_view(str(tmp_path))
    view.home()
    make_run(tmp_path, "two", 2)
    assert "two" not in Page(view.home()).text
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 3600)
    assert "two" in Page(view.home()).text


def test_what_takes_long_is_shown_as_it_was_while_it_is_read_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path, "one", 1)
    monkeypatch.setattr(live, "AT_ONCE_S", 0.0)
    view = live_view(str(tmp_path))
    assert "finished" in view.home()
    (tmp_path / "runs" / "one" / "result.json").unlink()
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 3600)
    assert "finished" in view.home()
    for _ in range(500):
        if "failed" in view.home():
            return
        threading.Event().wait(0.01)
    pytest.fail("it was never read anew")


def test_a_place_that_is_no_storage_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path, "one", 1)
    with pytest.raises(UserError, match="is one run") as caught:
        live_view(str(run))
    assert caught.value.fix == f"raysft ui {tmp_path}"
    with pytest.raises(UserError, match="there is no storage"):
        live_view(str(tmp_path / "nothing"))
    assert "None yet." in Page(live_view(str(tmp_path / "runs")).home()).text
