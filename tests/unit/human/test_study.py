"""Items, sides, order, what may be said of them; what bad files are told."""

from __future__ import annotations

from pathlib import Path

import pytest
from rated import GOLD_PAIRS, answers_file, pair_study, write_lines

from raysft.errors import DataError, UserError
from raysft.human.study import Study, is_right, make_study


def test_sides_and_order_are_of_chance_and_the_same_again(tmp_path: Path) -> None:
    study = pair_study(tmp_path, items=200).study()
    order = study.order("alice")
    assert sorted(order) == list(range(204))
    assert order[:2] == [0, 1], "the training comes first"
    assert order != study.order("bob")
    assert order[2:] != sorted(order[2:])
    flipped = sum(study.is_flipped("alice", number) for number in range(204))
    assert 70 < flipped < 134
    assert Study.from_json(study.to_json()).order("alice") == order


def test_what_is_said_of_sides_is_stored_by_answers_and_read_again(tmp_path: Path) -> None:
    study = pair_study(tmp_path).study()
    for number in range(10):
        shown = study.shown("bob", number)
        for place, side in enumerate(("left", "right")):
            value = study.value_of("bob", number, side)
            assert study.items[number].answers[("first", "second").index(value)] == shown[place]
            assert study.said_of("bob", number, value) == side
        assert study.said_of("bob", number, study.value_of("bob", number, "both_bad")) == "both_bad"
    for wrong in ("first", "", None, 3, {"left": 1}):
        with pytest.raises(ValueError, match="expected one of"):
            study.value_of("bob", 0, wrong)


def test_scores_are_whole_and_in_the_scale(tmp_path: Path) -> None:
    answers = {"one": answers_file(tmp_path / "a.jsonl", ["x", "y"])}
    study = make_study("scale", answers, criteria=("accuracy", "safety"))
    assert study.value_of("a", 0, {"safety": 5, "accuracy": 1}) == {"accuracy": 1, "safety": 5}
    for wrong in ({}, {"accuracy": 1}, {"accuracy": 0, "safety": 1}, {"accuracy": 6, "safety": 1}, [1, 2]):
        with pytest.raises(ValueError, match="expected"):
            study.value_of("a", 0, wrong)
    for wrong in (True, 2.0, "3"):
        with pytest.raises(ValueError, match="whole numbers"):
            study.value_of("a", 0, {"accuracy": wrong, "safety": 1})


def test_gold_scores_are_right_to_a_point(tmp_path: Path) -> None:
    gold = write_lines(tmp_path / "g.jsonl", [{"prompt": "p", "answer": "a", "scores": {"accuracy": 4}}])
    answers = {"one": answers_file(tmp_path / "a.jsonl", ["x"])}
    item = make_study("scale", answers, gold=gold).items[0]
    assert [is_right(item, {"accuracy": score, "fluency": 1}) for score in (2, 3, 5)] == [False, True, True]


def test_equal_answers_are_left_out_and_a_draw_is_the_same_again(tmp_path: Path) -> None:
    one = answers_file(tmp_path / "a.jsonl", [f"{i}" for i in range(40)])
    other = answers_file(tmp_path / "b.jsonl", [f"{i % 20} " for i in range(40)])
    assert len(make_study("pairwise", {"one": one, "other": other}).items) == 20
    drawn = make_study("pairwise", {"one": one, "other": other}, most=5, seed=2)
    assert len(drawn.items) == 5
    assert drawn == make_study("pairwise", {"one": one, "other": other}, most=5, seed=2)
    with pytest.raises(DataError, match="nothing to rate"):
        make_study("pairwise", {"one": one, "same": one})


def test_answers_to_other_questions_are_refused(tmp_path: Path) -> None:
    one = answers_file(tmp_path / "a.jsonl", ["x", "y"])
    short = answers_file(tmp_path / "b.jsonl", ["x"])
    others = answers_file(tmp_path / "c.jsonl", ["x", "y"], question="Other {}?")
    for file in (short, others):
        with pytest.raises(DataError, match="different questions"):
            make_study("pairwise", {"one": one, "other": file})


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "p"},
        {"generated": 3, "record": {"prompt": "p"}},
        {"generated": "x", "record": {"nothing": 1}},
        {"generated": "x", "record": "p"},
    ],
)
def test_a_line_that_is_no_answer_is_named(record: dict[str, object], tmp_path: Path) -> None:
    file = write_lines(tmp_path / "a.jsonl", [record])
    with pytest.raises(DataError, match=r"record 1 of .*a\.jsonl cannot be rated"):
        make_study("scale", {"one": file})


@pytest.mark.parametrize("change", [{"best": "left"}, {"first": 3}, {"prompt": None}, {"best": ["first"]}])
def test_a_gold_item_that_is_none_is_named(change: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="record 2"):
        pair_study(tmp_path, gold=write_lines(tmp_path / "g.jsonl", [GOLD_PAIRS[0], {**GOLD_PAIRS[1], **change}]))


@pytest.mark.parametrize("raters", [("a", "a"), ("a b",), ("",)])
def test_raters_have_names_of_their_own(raters: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="names of their own"):
        pair_study(tmp_path, raters=raters)
