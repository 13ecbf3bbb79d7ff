"""`raysft data report` on a cluster: pieces of files on Ray Data, duplicates over all of them, the page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import Ran, json_lines, overrides, raysft, write_material

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

LONG = "The river runs slowly through the old town and people walk along its banks in the evening when it is warm"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_material(tmp_path_factory.mktemp("user"))


def refused(ran: Ran, words: str) -> None:
    """As commands.assert_refused, but Ray may complain that pytest closed the stream of an earlier test."""
    assert ran.code == 2
    assert f"error: {words}" in ran.err or f"error: there is {words}" in ran.err, ran.err[:3000]
    assert "  fix: " in ran.err
    if "Traceback" in ran.err:
        assert "I/O operation on closed file" in ran.err


def test_a_report_over_several_files(capsys: pytest.CaptureFixture[str], recipe: Path, tmp_path: Path) -> None:
    for name in "ab":
        records = [
            {"instruction": f"{name}{i}", "output": f"answer {name} {i * 7919} of {i}", "sex": "fm"[i % 2]}
            for i in range(20)
        ]
        records.append({"instruction": "tell", "output": f"{LONG} in {name}", "sex": "f"})  # near duplicates
        records.append({"instruction": "same", "output": LONG, "sex": "m"})  # exact duplicates
        (tmp_path / f"{name}.jsonl").write_text(json_lines(*records, "broken"))
    train = overrides(f"data.train=[{tmp_path}/a.jsonl, {tmp_path}/b.jsonl]", f"storage={tmp_path}/storage")
    ran = raysft(capsys, "data", "report", recipe, *train)
    assert ran.code == 0, ran.err
    folder = tmp_path / "storage" / "datasets" / "tiny"
    assert sorted(path.name for path in folder.iterdir()) == ["report.html", "report.json"]
    found = json.loads((folder / "report.json").read_text())
    assert (found["records"], found["kept"]) == (46, 44)
    assert found["duplicates"]["exact_duplicates"] == 1
    assert found["duplicates"]["near_duplicates"] >= 1
    assert found["refused"][0]["first"] == [f"{tmp_path}/a.jsonl:23", f"{tmp_path}/b.jsonl:23"]
    assert {row["group"]: row["records"] for row in found["bias"][0]["groups"]} == {"f": 22, "m": 22}
    assert "a.jsonl:23" in (folder / "report.html").read_text()
    assert "groups of sex" in ran.out


@pytest.mark.parametrize("verb", [("data", "report"), ("preview",)])
def test_a_file_of_blank_lines(
    capsys: pytest.CaptureFixture[str], recipe: Path, tmp_path: Path, verb: tuple[str, ...]
) -> None:
    (tmp_path / "blank.jsonl").write_text("\n  \n\n")
    train = overrides(f"data.train={tmp_path}/blank.jsonl", f"storage={tmp_path}/storage")
    refused(raysft(capsys, *verb, recipe, *train), "no record")


def test_an_attribute_that_no_record_has(capsys: pytest.CaptureFixture[str], recipe: Path, tmp_path: Path) -> None:
    storage = overrides(f"storage={tmp_path}/storage")
    ran = raysft(capsys, "data", "report", recipe, "--attribute", "genre", *storage)
    refused(ran, "no record has the column 'genre'")
