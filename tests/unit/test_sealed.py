"""Records with their own checksum: written, read, damaged in every way, and of before there were any."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raysft import sealed, storage
from raysft.lines import LineFile

SHAPE: sealed.Shape = {"number": int, "why": str}
RECORD = {"number": 7, "why": "ä 子", "more": {"b": [1.5], "a": None}}


def reference_sum(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    sealed.passed_over.cache_clear()
    return tmp_path / "record.json"


def test_a_record_comes_back_with_nothing_added(place: Path) -> None:
    sealed.write(str(place), RECORD)
    assert json.loads(place.read_text())["sha256"] == reference_sum(RECORD)
    assert sealed.read(str(place), SHAPE) == RECORD
    assert sealed.sealed(sealed.sealed(RECORD)) == sealed.sealed(RECORD), "the sum is not of itself"


def test_only_the_first_creates(place: Path) -> None:
    assert sealed.create(str(place), RECORD)
    assert not sealed.create(str(place), {**RECORD, "number": 8})
    assert sealed.read(str(place), SHAPE) == RECORD


def test_a_record_of_before_there_were_sums_is_read(place: Path) -> None:
    place.write_text(json.dumps(RECORD))
    assert sealed.read(str(place), SHAPE) == RECORD


DAMAGES: dict[str, tuple[Callable[[str], str], str]] = {
    "a number": (lambda text: text.replace("7", "8", 1), "does not have its own checksum"),
    "a letter": (lambda text: text.replace("\\u5b50", "\\u5b51"), "does not have its own checksum"),
    "torn": (lambda text: text[: len(text) // 2], "no JSON"),
    "emptied": (lambda text: "", "no JSON"),
    "a list": (lambda text: "[1]", "no record"),
    "a field less": (lambda text: '{"number": 7}', "no field 'why'"),
    "another kind": (lambda text: '{"number": "7", "why": ""}', "'number' is '7'"),
    "true": (lambda text: '{"number": true, "why": ""}', "'number' is True"),
    "deep": (lambda text: "[" * 100_000, "no JSON"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_record_counts_as_absent_and_is_named_once(place: Path, damage: str, caplog: Any) -> None:
    sealed.write(str(place), RECORD)
    change, problem = DAMAGES[damage]
    before = place.read_text()
    place.write_text(change(before))
    assert place.read_text() != before
    for _ in range(3):
        assert sealed.read(str(place), SHAPE) is None
    assert [str(place) in line and problem in line for line in caplog.messages] == [True]


def test_what_is_absent_is_not_warned_of_and_what_is_no_file_is(place: Path, caplog: Any) -> None:
    assert sealed.read(str(place), SHAPE) is None
    assert sealed.read(str(place / "below"), SHAPE) is None
    assert not caplog.messages
    place.mkdir()
    assert sealed.read(str(place), SHAPE) is None
    place.rmdir()
    place.symlink_to(place.name)
    sealed.passed_over.cache_clear()
    assert sealed.read(str(place), SHAPE) is None
    assert len(caplog.messages) == 2


def test_a_storage_that_is_away_is_no_damage(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(location: str) -> bytes:
        raise OSError(5, "Input/output error")

    sealed.write(str(place), RECORD)
    monkeypatch.setattr(storage, "read_bytes", away)
    with pytest.raises(OSError, match="Input/output"):
        sealed.read(str(place), SHAPE)
    with pytest.raises(OSError, match="Input/output"):
        list(sealed.read_lines(str(place), {"number": SHAPE}))


def test_lines_of_several_kinds_and_those_that_cannot_be_used(place: Path, caplog: Any) -> None:
    file = LineFile(str(place))
    good = [{"step": 1, "loss": 0.5}, {"number": 2, "why": "x"}, {"step": 3, "loss": 1}]
    for line in good:
        file.append(line)
    file.flush()
    shapes: dict[str, sealed.Shape] = {"step": {"step": int, "loss": sealed.NUMBER}, "number": SHAPE}
    assert list(sealed.read_lines(str(place), shapes)) == good
    first, second, third = place.read_text().splitlines()
    assert '"loss": 0.5' in first
    flipped = first.replace("0.5", "0.6")
    lines = [flipped, "not JSON", '{"other": 1}', '{"step": "one", "loss": 1}', "", second, third, '{"step": 4, "lo']
    place.write_text("\n".join(lines))
    assert list(sealed.read_lines(str(place), shapes)) == good[1:]
    assert [line.split(" is passed over")[0].rpartition(":")[2] for line in caplog.messages] == ["1", "2", "3", "4"]


def test_names_are_those_of_the_pattern_whole_and_in_order(tmp_path: Path) -> None:
    for name in ("commit-10.json", "commit-02.json", "commit-02.json.tmp", "acommit-03.json", "commit-x.json"):
        (tmp_path / name).write_text("")
    assert sealed.names(str(tmp_path), r"commit-\d+\.json") == ["commit-02.json", "commit-10.json"]
    assert sealed.names(str(tmp_path / "nowhere"), r".*") == []
