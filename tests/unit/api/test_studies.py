"""A search as an object: its best, and what each trial cost."""

from __future__ import annotations

from html_page import EVIL

from raysft.api.studies import study_of
from raysft.observe.tune_report import SearchFacts, TrialFacts
from raysft.search.command import SearchResult


def test_a_study_names_its_best_and_every_cost() -> None:
    trials = [
        TrialFacts(0, {"optimizer.learning_rate": 0.1}, "finished", (2.0,), [(1, 2.5), (2, 2.0)], 3.0, 6.0, 0.0, ""),
        TrialFacts(1, {"optimizer.learning_rate": 0.2}, "failed", (), [], 1.0, 2.0, 0.0, EVIL),
        TrialFacts(2, {"optimizer.learning_rate": 0.3}, "finished", (1.0,), [(2, 1.0)], 3.0, 6.0, 0.0, ""),
    ]
    facts = SearchFacts(
        "s", ["held_out/loss"], ["min"], ["optimizer.learning_rate"], trials, (2,), {"held_out/loss": {}}
    )
    study = study_of(SearchResult(facts, "/d", None, "/d/report.html", None))
    assert study.best is not None
    assert (study.best.number, study.best.values) == (2, {"held_out/loss": 1.0})
    assert study.best.point == {"optimizer.learning_rate": 0.3}
    assert study.metrics == {"held_out/loss": "min"}
    assert [trial.state for trial in study.trials] == ["finished", "failed", "finished"]
    page = study._repr_html_()
    assert "<script>" not in page
    assert page.count("font-weight: bold") == 1
    assert "report       /d/report.html" in str(study)
    empty = study_of(SearchResult(SearchFacts("s", ["l"], ["min"], [], [], (), {}), "/d", None, "/d/r", None))
    assert empty.best is None
