"""A finished run as an object: what it measured, which export counts, and that data lets no markup in."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes import make_recipe
from html_page import EVIL, Reader
from run_dirs import LAST, make_run

from raysft.api.runs import _run
from raysft.errors import ModelError
from raysft.run.run import RunResult

LOSS = {"loss": {"value": 2.0, "count": 9}, "perplexity": {"value": 7.39, "count": 9}}
SAMPLES = [{"prompt": EVIL, "answer": "a", "reference": "b"}, {"prompt": "q", "answer": EVIL, "reference": "c"}]
MATCH = {"loss": {"value": 1.0, "count": 9}, "exact_match": {"value": 0.5, "count": 2}}
BEFORE = {"held_out": {"metrics": LOSS, "num_prompts": 0, "samples": []}}
AFTER = {"held_out": {"metrics": MATCH, "num_prompts": 2, "samples": SAMPLES}}


def result(run: str, *exports: str) -> RunResult:
    return RunResult(run, LAST, BEFORE, AFTER, exports, f"{run}/report.html")


def test_what_was_measured_before_and_after() -> None:
    found = _run(make_recipe(), result("/r", "/r/export/adapter", "/r/export/merged"))
    assert found.before is not None
    assert found.evaluation is not None
    assert (found.before["held_out/loss"], found.before.samples) == (2.0, {"held_out": ()})
    assert "held_out/exact_match" not in found.before.measures
    assert (found.evaluation["held_out/exact_match"], found.evaluation.measures["held_out/exact_match"].count) == (
        0.5,
        2,
    )
    assert str(found.evaluation) == "held-out loss 1.0000, exact match of greedy answers 50.0% of 2 prompts"
    assert str(found).splitlines()[1:4] == [
        f"steps        {LAST}",
        "before       held-out loss 2.0000, perplexity 7.3900",
        f"after        {found.evaluation}",
    ]
    assert found.export == "/r/export/merged", "the whole model before the adapter"


def test_how_far_answers_changed() -> None:
    change = {"difference": 0.5, "low": 0.1, "high": 0.9, "p": 0.01, "count": 2}
    after = {"held_out": {**AFTER["held_out"], "changes": {"exact_match": change}}}
    found = _run(make_recipe(), RunResult("/r", LAST, BEFORE, after, (), "/r/report.html"))
    assert found.before is not None
    assert found.evaluation is not None
    assert found.evaluation.changes["held_out/exact_match"].p == 0.01
    assert found.before.changes == {}


def test_a_run_without_held_out_data_and_without_exports() -> None:
    found = _run(make_recipe(), RunResult("/r", 3, None, None, (), "/r/report.html"))
    assert (found.before, found.evaluation, found.export) == (None, None, None)
    assert "before" not in str(found)
    with pytest.raises(ModelError, match="has no export") as caught:
        found.model()
    assert "export.merged: true" in caught.value.fix


def test_metrics_are_those_of_the_steps_that_count(tmp_path: Path) -> None:
    """Attempt 1 commits 6 and dies at 7; attempt 2 does 7 and 8: each step once."""
    run = make_run(tmp_path, "one", 1)
    metrics = _run(make_recipe(), result(str(run))).metrics()
    assert [step.step for step in metrics.steps] == list(range(1, LAST + 1))
    assert [step.loss for step in metrics.steps] == pytest.approx([1 + 1 / n for n in range(1, LAST + 1)])
    assert metrics.held_out == ()
    pytest.importorskip("pandas")
    frame = metrics.to_frame()
    assert list(frame["step"]) == list(range(1, LAST + 1))
    assert "line" not in frame.columns


def test_answers_of_a_model_cannot_write_on_the_page() -> None:
    found = _run(make_recipe(), result("/r/<b>"))
    assert found.evaluation is not None
    for shown in (found, found.evaluation):
        page = Reader(shown._repr_html_())
        assert page.tags <= {"table", "caption", "thead", "tbody", "tr", "th", "td"}
    assert "\\u001b" in str(_run(make_recipe(), result("/r/\x1b[31m"))), "nor command the terminal"
    assert "\x1b" not in str(_run(make_recipe(), result("/r/\x1b[31m")))
