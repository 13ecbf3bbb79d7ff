"""Files of lines: read by others after a flush, waited for, torn lines left out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raysft import storage
from raysft.errors import StorageError
from raysft.lines import LineFile


def test_lines_are_read_by_others_after_a_flush(root: str) -> None:
    place = storage.join(root, "logs", "metrics.jsonl")
    lines = LineFile(place)
    lines.append({"step": 1})
    lines.append({"step": 2})
    lines.flush()
    assert [json.loads(line)["step"] for line in storage.read_lines(place)] == [1, 2]
    lines.append({"step": 3})
    lines.flush()
    assert len(list(storage.read_lines(place))) == 3


def test_lines_wait_for_a_place_that_comes_back(tmp_path: Path) -> None:
    place = tmp_path / "logs" / "metrics.jsonl"
    lines = LineFile(str(place))
    lines.append({"step": 1})
    place.parent.rename(tmp_path / "away")
    lines.append({"step": 2})
    with pytest.raises(StorageError):
        lines.flush()
    (tmp_path / "away").rename(place.parent)
    lines.append({"step": 3})
    lines.flush()
    assert [line["step"] for line in storage.read_json_lines(str(place))] == [1, 2, 3]


def test_a_line_that_its_writer_died_in_is_left_out(tmp_path: Path) -> None:
    place = tmp_path / "m.jsonl"
    for text, expected in (("", []), ('{"a"', []), ('{"a": 1}\n{"b": ', ['{"a": 1}']), ("1\n2\n", ["1", "2"])):
        place.write_text(text)
        assert list(storage.read_lines(str(place))) == expected
