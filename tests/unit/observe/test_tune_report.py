"""The report of a search: the table, the page, the pictures."""

from __future__ import annotations

import struct

from html_page import Page

from raysft.observe.tune_report import SearchFacts, TrialFacts, render_search, search_lines


def trial(number: int, state: str, values: tuple[float, ...], why: str = "", **point: object) -> TrialFacts:
    names = {"rate": "optimizer.learning_rate", "kind": "method.kind"}
    curve = [(2, values[0] + 1), (4, values[0])] if values else []
    return TrialFacts(number, {names[k]: v for k, v in point.items()}, state, values, curve, 10.0, 20.0, 0.0, why)


FACTS = SearchFacts(
    name="demo <b>",
    metrics=("held_out/loss", "tokens_per_s"),
    modes=("min", "max"),
    fields=("optimizer.learning_rate", "method.kind"),
    trials=[
        trial(0, "finished", (2.0, 100.0), rate=1e-3, kind="full"),
        trial(1, "finished", (1.0, 50.0), rate=1e-2, kind="lora"),
        trial(2, "failed", (), why="OutOfMemoryError <x>", rate=1e-5, kind="full"),
        trial(3, "finished", (3.0, 40.0), rate=1e-4),
        trial(4, "running", (1.5, 60.0), rate=2e-4),
    ],
    best=(0, 1),
    importances={"held_out/loss": {"optimizer.learning_rate": 0.75, "method.kind": 0.25}, "tokens_per_s": {}},
)


def test_the_table_has_the_best_first_and_every_trial_once() -> None:
    lines = search_lines(FACTS)
    assert lines[0].split() == ["trial", "state", *FACTS.metrics, "steps", "core-seconds", "learning_rate", "kind"]
    assert [line.split()[0] for line in lines[1:6]] == ["*1", "*0", "3", "4", "2"]
    assert lines[6] == "5 trials: 3 finished, 1 running, 1 failed; 1 min 40 s of cores"
    assert lines[7] == "importance for held_out/loss: learning_rate 75%, kind 25%"
    assert "OutOfMemoryError" in lines[5]


def test_the_page_tells_all_and_loads_nothing() -> None:
    html, pictures = render_search(FACTS, "name: demo\nnote: <script>\n")
    page = Page(html)
    assert "script" not in page.tags
    assert "Optimisation history" in page.text
    assert "Pareto front" in page.text
    assert "OutOfMemoryError <x>" in page.text
    assert not [value for name, value in page.attributes if name in ("src", "href")]
    assert page.tags.count("svg") == 5  # history, parallel, cost, curves, one front
    assert set(pictures) == {"history.png", "parallel.png", "cost.png", "curves.png", "pareto-tokens_per_s.png"}
    for picture in pictures.values():
        assert picture.startswith(b"\x89PNG")
        assert struct.unpack(">I", picture[16:20])[0] == 2080


def test_a_search_that_has_just_begun_has_a_page() -> None:
    empty = SearchFacts("new", ("held_out/loss",), ("min",), ("optimizer.learning_rate",), [], (), {})
    html, _ = render_search(empty, "")
    assert "0 trials: none" in Page(html).text
    assert search_lines(empty)[-1] == "0 trials: none; 0.0 s of cores"
