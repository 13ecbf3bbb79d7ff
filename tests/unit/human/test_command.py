"""A study opened by what is asked for: made, found again, refused; its results on a terminal and in files."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from rated import answers_file, pair_study, ratings_of

from raysft.errors import ConflictError, StorageError, UserError
from raysft.human.command import Asked, asked, open_study, serve, tell


def test_a_study_is_found_without_its_answers_and_takes_more_raters(tmp_path: Path) -> None:
    made = pair_study(tmp_path)
    found = open_study(str(tmp_path / "study.db"), Asked({}, ["carol"]))
    assert found.study() == made.study()
    assert set(found.tokens()) == {"alice", "bob", "carol"}


@pytest.mark.parametrize(
    ("more", "option"),
    [
        ({"mode": "scale"}, "--mode"),
        ({"gold": "g.jsonl"}, "--gold"),
        ({"seed": 3}, "--seed"),
        ({"most": 2}, "--items"),
    ],
)
def test_what_a_study_cannot_take_any_more_is_not_passed_over(
    tmp_path: Path, more: dict[str, Any], option: str
) -> None:
    pair_study(tmp_path)
    with pytest.raises(UserError, match="decided when a study is made") as told:
        open_study(str(tmp_path / "study.db"), Asked({}, ["bob"], **more))
    assert option in told.value.got


def test_pairs_need_two_systems(tmp_path: Path) -> None:
    one = {"one": answers_file(tmp_path / "a.jsonl", ["x"])}
    with pytest.raises(UserError, match="two systems"):
        open_study(str(tmp_path / "s.db"), Asked(one, ["a"]))
    assert open_study(str(tmp_path / "s.db"), Asked(one, ["a"], mode="scale")).tokens()


@pytest.mark.parametrize(("mode", "criteria"), [("pairwise", ("accuracy",)), ("scale", ("style",))])
def test_criteria_that_are_none_are_refused(mode: str, criteria: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=r"criteria|rated by this"):
        asked({}, (), mode=mode, gold=None, criteria=criteria, seed=0, most=0)  # type: ignore[arg-type]


def test_results_go_to_files_whole_or_not_at_all(tmp_path: Path) -> None:
    store = pair_study(tmp_path)
    seats = {name: store.sit(name) for name in ("alice", "bob")}
    for rating in ratings_of(store.study()):
        store.save(rating, seats[rating.rater])
    lines = tell(store, str(tmp_path / "r.csv"), str(tmp_path / "p.jsonl"))
    assert lines[-2:] == [
        f"table        20 ratings in {tmp_path / 'r.csv'}",
        f"preferences  3 pairs in {tmp_path / 'p.jsonl'}",
    ]
    assert len((tmp_path / "r.csv").read_text().splitlines()) == 21
    assert json.loads((tmp_path / "p.jsonl").read_text().splitlines()[0])["winner"] == "before"
    with pytest.raises(StorageError, match="cannot write"):
        tell(store, str(tmp_path / "nowhere" / "r.csv"), None)


def test_a_port_that_is_taken_and_a_study_without_raters_are_told(tmp_path: Path) -> None:
    pytest.importorskip("uvicorn")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(UserError, match="cannot listen"):
            serve(pair_study(tmp_path), "127.0.0.1", other.getsockname()[1], "en")
    empty = open_study(
        str(tmp_path / "e.db"), Asked({"a": answers_file(tmp_path / "a.jsonl", ["x"])}, (), mode="scale")
    )
    with pytest.raises(UserError, match="nobody may rate"):
        serve(empty, "127.0.0.1", 0, "en")


def test_results_do_not_replace_the_study(tmp_path: Path) -> None:
    store = pair_study(tmp_path)
    with pytest.raises(ConflictError, match="--csv and the study"):
        tell(store, str(tmp_path / "study.db"), None)
    with pytest.raises(ConflictError, match="--preferences and --csv"):
        tell(store, str(tmp_path / "r"), str(tmp_path / "r"))
    assert store.study().items


def test_half_a_character_of_a_model_is_replaced(tmp_path: Path) -> None:
    """Answers are cut at tokens: `raysft generate` escapes what is left of a character."""
    files = {name: answers_file(tmp_path / f"{name}.jsonl", [name]) for name in ("a", "b")}
    text = Path(files["a"]).read_text("utf-8").replace('"a"', '"a \\ud83d"')
    Path(files["a"]).write_text(text, encoding="utf-8")
    store = open_study(str(tmp_path / "s.db"), Asked(files, ["x"]))
    (item,) = store.study().items
    assert item.answers == ("a \ufffd", "b")
    assert tell(store, str(tmp_path / "r.csv"), str(tmp_path / "p.jsonl"))
