"""The bias table against rates counted by hand; the four-fifths rule; small groups are not judged."""

from __future__ import annotations

import pytest

from raysft.data.report.bias import MIN_GROUP, bias_advice, bias_table, rebalancing


def group(records: int, kept: int | None = None, chars: int = 10, **labels: int):
    kept = records if kept is None else kept
    return {"records": records, "kept": kept, "answer_chars": kept * chars, "quality": kept * 0.5, "labels": labels}


def measure(entry, name):
    (found,) = [d for d in entry["disparity"] if d["measure"] == name]
    return found


@pytest.mark.parametrize(("hired", "marked"), [(39, True), (40, False), (41, False)])
def test_four_fifths(hired: int, marked: bool) -> None:
    """50 of 100 against `hired` of 100: 40 / 50 is four fifths exactly, which passes."""
    groups = {"a": group(100, hired=50, refused=50), "b": group(100, hired=hired, refused=100 - hired)}
    (entry,) = bias_table({"race": groups}, {"hired": 50 + hired, "refused": 150 - hired})
    found = measure(entry, "hired")
    assert found["ratio"] == pytest.approx(hired / 50)
    assert (found["lowest"], found["highest"]) == (["b", hired / 100], ["a", 0.5])
    assert found["marked"] is marked
    assert any("`hired`" in line and "race" in line for line in bias_advice([entry])) is marked


def test_small_groups_are_shown_but_not_judged() -> None:
    groups = {"a": group(100, yes=50, no=50), "b": group(MIN_GROUP - 1, yes=MIN_GROUP - 1)}
    (entry,) = bias_table({"sex": groups}, {"yes": 79, "no": 50})
    assert [(row["group"], row["judged"]) for row in entry["groups"]] == [("a", True), ("b", False)]
    assert entry["groups"][1]["labels"] == {"yes": 1.0, "no": 0.0}
    assert entry["disparity"] == []
    assert any("too few records to judge" in line and ": b;" in line for line in bias_advice([entry]))


def test_a_group_whose_records_have_few_labels_is_not_judged() -> None:
    groups = {"a": group(100, yes=60), "b": group(100, yes=5)}
    (entry,) = bias_table({"sex": groups}, {"yes": 65})
    assert [row["judged"] for row in entry["groups"]] == [True, False]


def test_without_labels_answers_are_compared_and_nothing_is_marked() -> None:
    (entry,) = bias_table({"dialect": {"x": group(50, chars=10), "y": group(40, chars=40)}}, {})
    assert measure(entry, "answer_chars")["ratio"] == pytest.approx(0.25)
    assert measure(entry, "quality")["ratio"] == 1
    assert not any(found["marked"] for found in entry["disparity"])


def test_rebalancing_names_the_field_and_the_factors() -> None:
    (entry,) = bias_table({"sex": {"f": group(50, kept=40), "m": group(100), "x": group(31, kept=0)}}, {})
    assert rebalancing(entry) == {"f": 2.5, "m": 1.0}
    (line, *_) = bias_advice([entry])
    assert "data.mixture.balance_by: sex" in line
    assert "f x2.5" in line
    assert "m x1.0" in line


def test_a_group_repeated_too_often_is_warned_of() -> None:
    (entry,) = bias_table({"sex": {"f": group(35), "m": group(1000)}}, {})
    assert any("more than 10 times" in line for line in bias_advice([entry]))


def test_equal_groups_need_no_advice() -> None:
    groups = {"f": group(50, yes=25, no=25), "m": group(50, yes=25, no=25)}
    assert bias_advice(bias_table({"sex": groups}, {"yes": 50, "no": 50})) == []
    assert bias_advice(bias_table({}, {})) == []


def test_nobody_kept() -> None:
    (entry,) = bias_table({"sex": {"f": group(50, kept=0), "m": group(50, kept=0)}}, {})
    assert entry["disparity"] == []
    assert [row["answer_chars"] for row in entry["groups"]] == [None, None]
    assert bias_advice([entry])
