"""`raysft.generate`, and the command that prints what it returns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import assert_refused, json_lines
from commands import raysft as command
from exports import write_export

import raysft


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_export(tmp_path / "export")
    (tmp_path / "in.jsonl").write_text(json_lines({"prompt": "a"}, {"instruction": "b", "output": "c"}))
    return tmp_path


def test_the_command_does_what_the_function_does(folder: Path, capsys) -> None:
    how = raysft.Sampling(max_new_tokens=4, seed=1)
    found = raysft.generate(folder / "export", folder / "in.jsonl", folder / "one.jsonl", how=how)
    assert (found.count, found.reused) == (2, 0)
    places = (folder / "export", "--in", folder / "in.jsonl", "--out", folder / "two.jsonl")
    for told in ("2 answers", "2 of them were there"):
        ran = command(capsys, "generate", *places, "--max-new-tokens", 4, "--seed", 1)
        assert (ran.code, ran.out) == (0, "")
        assert told in ran.err
    assert (folder / "one.jsonl").read_bytes() == (folder / "two.jsonl").read_bytes()
    first, second = map(json.loads, (folder / "one.jsonl").read_text().splitlines())
    assert (first["record"], second["record"]["output"]) == ({"prompt": "a"}, "c")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("nowhere", "--in", "in.jsonl", "--out", "o"), "no such directory"),
        (("export", "--in", "nowhere.jsonl", "--out", "o"), "nowhere.jsonl"),
        (("export", "--in", "in.jsonl", "--out", "o", "--raw"), "record 2"),
        (("export", "--in", "in.jsonl", "--out", "o", "--temperature", "-1"), "from 0 to 100"),
        (("export", "--in", "in.jsonl", "--out", "o", "--top-p", "nan"), "from 1e-06 to 1"),
        (("export", "--in", "in.jsonl", "--out", "o", "--top-k", "-1"), "from 0 on"),
        (("export", "--in", "in.jsonl"), "--out"),
    ],
)
def test_bad_input_is_told(folder: Path, capsys, monkeypatch, arguments: tuple[str, ...], word: str) -> None:
    monkeypatch.chdir(folder)
    ran = command(capsys, "generate", *arguments)
    if not ran.err.startswith("usage"):
        assert_refused(ran, word)
    assert (ran.code, word in ran.err) == (2, True), ran
    assert not (folder / "o").exists()
