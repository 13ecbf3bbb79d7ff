"""Runs beside each other: fields, curves and measures, in lines and on a page."""

from __future__ import annotations

import re
from typing import Any

from html_page import Page

from raysft.observe.comparison import ComparedRun, comparison_lines, differing_fields, render_comparison

EVIL = "<script>alert(1)</script>"


def run(label: str, **fields: Any) -> ComparedRun:
    steps = [
        {"kind": "step", "step": s, "loss": 2.0 / s, "learning_rate": 1e-3, "grad_norm": 1.0}
        | {"tokens_per_s": 10.0 * s, "total_tokens": 8 * s, "skipped": False}
        for s in range(1, 8)
    ]
    held_out = ((0, 3.0), (4, 0.5), (7, 0.75))
    evals = [{"kind": "eval", "step": s, "loss": loss, "perplexity": 1.0} for s, loss in held_out]
    values: dict[str, Any] = {"status": "finished", "wall_s": 61.0, "metrics": [*steps, *evals], "after": {}}
    values |= {"fields": {"seed": 1, "optimizer.learning_rate": 0.5, "name": label}, "changes": {}}
    return ComparedRun(label, **(values | fields))


def test_only_fields_in_which_runs_differ_are_told() -> None:
    runs = [run("a"), run("b", fields={"seed": 1, "optimizer.learning_rate": 2.0, "method.rank": 8})]
    assert differing_fields(runs) == [("optimizer.learning_rate", ["0.5", "2"]), ("method.rank", ["-", "8"])]


def test_the_lines_have_a_column_for_each_run() -> None:
    text = "\n".join(comparison_lines([run("first"), run("second", metrics=[], wall_s=0.0, status="running")]))
    assert re.search(r"^run +first +second$", text, re.M)
    assert re.search(r"^held-out loss, best +0.5 at step 4 +-$", text, re.M)
    assert re.search(r"^wall time +1 min 01 s +-$", text, re.M)
    assert "no field differs" in text


def test_objectives_that_differ_are_warned_of() -> None:
    runs = [run("a", fields={"objective.kind": "sft"}), run("b", fields={"objective.kind": "dpo"})]
    assert "not the same quantity" in "\n".join(comparison_lines(runs))
    assert "not the same quantity" not in "\n".join(comparison_lines([run("a"), run("b")]))


def test_the_page_draws_every_run_escapes_all_and_loads_nothing() -> None:
    metrics = {"exact_match": {"value": 0.5, "count": 9}}
    change = {"difference": 0.25, "low": 0.125, "high": 0.375, "p": 0.03, "count": 9}
    after = {EVIL: {"metrics": metrics, "num_prompts": 9}}
    html = render_comparison(
        [run(EVIL, after=after), run("b", after=after, changes={EVIL: {"exact_match": change}}), run("c")]
    )
    page = Page(html)
    assert page.open == []
    assert "script" not in page.tags
    assert not {"src", "href"} & {name for name, _ in page.attributes}
    assert "+25.0% (+12.5% to +37.5%), p = 0.030" in page.text
    for index in range(3):
        assert len(re.findall(f'<path class="run c{index}"', html)) == 4, "a line in each of four drawings"


def test_benchmarks_stand_beside_each_other_with_their_errors() -> None:
    """0.5 - 0.25 with errors 0.03 and 0.04: +0.25 ± 0.05. What was asked otherwise has no difference."""

    def kept(value: float, stderr: float | None, **task: Any) -> dict[str, Any]:
        metrics = {"acc,none": {"value": value, "stderr": stderr}}
        told = {"metrics": metrics, "samples": 50, "version": 1, "num_fewshot": 0, "hash": "h", "limit": None, **task}
        return {"harness": "0.4.13", "model": "m", "name": "n", "tasks": {"arc": told}}

    first = run("a", benchmarks=kept(0.25, 0.03))
    others = [
        (kept(0.5, 0.04), "+0.2500 ± 0.0500"),
        (kept(0.5, None), "+0.2500"),
        (kept(0.5, 0.04, hash="other"), "asked otherwise"),
        (kept(0.5, 0.04, version=2), "another version"),
    ]
    runs = [first, *(run(f"b{i}", benchmarks=one) for i, (one, _) in enumerate(others)), run("none")]
    for text in ("\n".join(comparison_lines(runs)), Page(render_comparison(runs)).text):
        assert "arc: acc" in text
        assert "0.2500 ± 0.0300" in text
        for _, told in others:
            assert told in text
        assert "independent samples" in text
    assert "benchmarks" not in "\n".join(comparison_lines([run("a"), run("b")]))
