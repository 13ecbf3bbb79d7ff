"""Whole-data rules on shards made by hand: what goes, what it is like, and that order and cutting do not matter."""

from __future__ import annotations

from pathlib import Path

import pytest
from keyed_shards import gone, run, write

from raysft.recipe.cleaning import Conflicts, Contamination, ExactDuplicates, Leakage, NearDuplicates, Rule

pytestmark = pytest.mark.usefixtures("in_process")

EXACT = ExactDuplicates(rule="exact_duplicates")
NEAR = NearDuplicates(rule="near_duplicates", threshold=0.7)


def test_nothing_to_compare(tmp_path: Path) -> None:
    assert run(tmp_path, [("a", "b")] * 3, []).dropped.num_rows == 0


def test_of_equal_records_the_first_stays(tmp_path: Path) -> None:
    talks = [("q", "a"), ("p", "a"), ("Q ", "a"), ("q", "b"), ("p", "A"), ("q", "a")]
    for pieces in (1, 2, 3):
        found = run(tmp_path, talks, [EXACT], pieces)
        expected = {2: ("exact_duplicates", 0), 4: ("exact_duplicates", 1), 5: ("exact_duplicates", 0)}
        assert gone(found, -(-6 // pieces)) == expected
        assert found.counts == {"exact_duplicates": 3}
        assert found.clusters[0] == {"rule": "exact_duplicates", "size": 3, "members": [0, 2, 5]}
    report = ExactDuplicates(rule="exact_duplicates", action="report")
    found = run(tmp_path, talks, [report])
    assert found.dropped.num_rows == 0
    assert found.counts == {"exact_duplicates": 3}


def test_leakage_from_both_kinds_of_held_out_data(tmp_path: Path) -> None:
    rules: list[Rule] = [Leakage(rule="leakage")]
    other = write(tmp_path, "eval", [("in files", "x")], 900, rules, held_out=[True])
    talks = [("q", "a"), ("In  Files", "y"), ("held", "b"), ("held", "c"), ("free", "d")]
    held_out = [False, False, True, False, False]
    found = run(tmp_path, talks, rules, held_out=held_out, eval_shards=[other])
    assert gone(found) == {1: ("leakage", -1), 3: ("leakage", -1)}


def test_conflicts(tmp_path: Path) -> None:
    talks = [("q", "a"), ("q", "A"), ("p", "a"), ("q", "b"), ("q", "a")]
    everything = run(tmp_path, talks, [Conflicts(rule="conflicts", action="drop")])
    assert sorted(gone(everything)) == [0, 1, 3, 4]
    first = run(tmp_path, talks, [Conflicts(rule="conflicts", action="drop", keep_first=True)])
    assert gone(first) == {3: ("conflicts", 0)}
    assert run(tmp_path, talks, [Conflicts(rule="conflicts")]).counts == {"conflicts": 4}


def test_rules_see_what_the_ones_before_left(tmp_path: Path) -> None:
    path = tmp_path / "bench.jsonl"
    path.write_text('{"text": "one two three four"}\n')
    against = Contamination(rule="contamination", files=(str(path),), ngram=3)
    talks = [("one two three four", "x"), ("q", "a"), ("One two three four", "x"), ("q", "a")]
    found = run(tmp_path, talks, [against, EXACT])
    assert gone(found) == {0: ("contamination", -1), 2: ("contamination", -1), 3: ("exact_duplicates", 1)}
    found = run(tmp_path, talks, [EXACT, against])
    assert gone(found) == {0: ("contamination", -1), 2: ("exact_duplicates", 0), 3: ("exact_duplicates", 1)}


def test_samples_of_one_record_are_not_each_other_s_duplicates(tmp_path: Path) -> None:
    """The parts of a split record have all of its keys; augmented copies are meant to be alike."""
    text = " ".join(f"word{i}" for i in range(80))
    talks = [(text, "a"), (text, "a"), (text + " more", "a"), (text, "a"), (text, "a"), (text + " more", "a")]
    ids = [7, 7, 7, 9, 9, 9]
    assert gone(run(tmp_path, talks, [EXACT], ids=ids)) == {
        **{3: ("exact_duplicates", 7), 4: ("exact_duplicates", 7), 5: ("exact_duplicates", 7)}
    }
    found = run(tmp_path, talks, [NEAR], 2, ids=ids)
    assert sorted(gone(found, 3)) == [3, 4, 5]
    assert found.clusters == [{"rule": "near_duplicates", "size": 4, "members": [7, 9, 9, 9]}]


def test_held_out_samples_are_no_one_s_first(tmp_path: Path) -> None:
    text = " ".join(f"word{i}" for i in range(80))
    talks = [(text, "a"), (text, "a"), (text, "a")]
    found = run(tmp_path, talks, [NEAR, EXACT], 3, held_out=[True, False, False])
    assert gone(found, 1) == {2: ("near_duplicates", 1)}
