"""The table, and preferences that train."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from rated import GOLD_PAIRS, VERDICTS, answers_file, pair_study, ratings_of

from raysft.data.formats import read_record
from raysft.data.formats.unread import Reading
from raysft.human.export import to_csv, to_preferences
from raysft.human.store import Rating
from raysft.human.study import make_study


def test_the_table_has_every_rating_and_no_formula(tmp_path: Path) -> None:
    evil = [f'=HYPERLINK("http://x","{i}")' for i in range(6)]
    one = answers_file(tmp_path / "a.jsonl", evil, question="=1+{}")
    other = answers_file(tmp_path / "b.jsonl", ["plain\nof two lines, and a comma"] * 6, question="=1+{}")
    study = make_study("pairwise", {"before": one, "after": other})
    ratings = [Rating("alice", i, v, 2.0, 1e9) for i, v in enumerate(VERDICTS["alice"])]
    rows = list(csv.DictReader(io.StringIO(to_csv(study, ratings))))
    assert [row["verdict"] for row in rows] == VERDICTS["alice"]
    assert [row["winner"] for row in rows] == ["before", "before", "after", "", "", "before"]
    assert rows[0]["prompt"] == "'=1+0"
    assert json.loads(rows[0]["answers"]) == [evil[0], "plain\nof two lines, and a comma"]
    assert rows[0]["left"] == ("second" if study.is_flipped("alice", 0) else "first")


def test_preferences_are_those_of_most_raters_and_train(tmp_path: Path) -> None:
    study = pair_study(tmp_path).study()
    kept = [json.loads(line) for line in to_preferences(study, ratings_of(study)).splitlines()]
    assert [(one["chosen"], one["rejected"], one["agreement"]) for one in kept] == [
        ("before says 0", "after says 1", 1.0),
        ("after says 3", "before says 2", 1.0),
        ("before says 5", "after says 6", 1.0),
    ], "where raters differ, or see none better, nothing is said; gold items are not trained on"
    assert not any(one["prompt"] in {gold["prompt"] for gold in GOLD_PAIRS} for one in kept)
    (read,) = read_record(kept[0], Reading("preference"), id=0, source="")
    assert [message.role for message in read.messages] == ["user", "assistant"]  # type: ignore[union-attr]
