"""The one table of measures: rows of tables, values, old names."""

from __future__ import annotations

from raysft.metrics import METRICS
from raysft.recipe.measures import MEASURES, changed, full_name, rows_of, shown


def record(of_pairs: bool = False, **values: float) -> dict[str, object]:
    return {"metrics": {name: {"value": value} for name, value in values.items()}, "of_pairs": of_pairs}


def test_every_metric_of_answers_is_a_measure() -> None:
    assert {name for name, measure in MEASURES.items() if measure.wants == "answers"} == {*METRICS, "ece", "brier"}
    assert {name: MEASURES[name].better for name in METRICS} == {name: one.better for name, one in METRICS.items()}


def test_a_row_for_what_was_measured_at_least_once() -> None:
    before = {"held_out": record(loss=5.0, perplexity=148.4), "dev": record(of_pairs=True, loss=2.0)}
    after = {"held_out": record(loss=0.5), "gsm8k": record(exact_match=0.25)}
    assert [(row.title, row.before, row.after) for row in rows_of(before, after)] == [
        ("held-out loss", "5.0000", "0.5000"),
        ("held-out perplexity", "148.4000", "-"),
        ("dev: loss of the preferred answers", "2.0000", "-"),
        ("gsm8k: exact match of greedy answers", "-", "25.0%"),
    ]
    assert rows_of({}, {}) == []


def test_a_value_with_its_interval() -> None:
    assert (
        shown("exact_match", {"value": 0.91, "count": 200, "low": 0.8621, "high": 0.942}) == "91.0% (86.2% to 94.2%)"
    )
    assert shown("perplexity", {"value": 16972.54, "count": 9, "low": None, "high": None}) == "16,973"


def test_old_names() -> None:
    assert [full_name(name) for name in ("held_out_loss", "dev/loss", "train_loss")] == [
        "held_out/loss",
        "dev/loss",
        "train_loss",
    ]


def test_a_change_has_its_interval_and_p() -> None:
    change = {"difference": 0.125, "low": -0.04, "high": 0.21, "p": 0.0124, "count": 200}
    after = {"dev": {**record(exact_match=0.5, bleu=31.0), "changes": {"exact_match": change}}}
    after["dev"]["metrics"]["bleu"]["how"] = "tok:13a"  # type: ignore[index]
    match, bleu = rows_of({"dev": record(exact_match=0.375, bleu=30.0)}, after)
    assert match.change == "+12.5% (-4.0% to +21.0%), p = 0.012"
    assert (bleu.change, bleu.how) == ("", "tok:13a")
    assert changed("bleu", {**change, "difference": -3.0, "p": 0.0005}) == "-3.00 (-0.04 to +0.21), p < 0.001"
