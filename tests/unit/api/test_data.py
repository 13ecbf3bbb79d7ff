"""Previews as objects: text, colour, and no markup let in."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import json_lines, write_material
from commands import raysft as command
from html_page import EVIL, Reader

import raysft
from raysft.errors import DataError


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_material(tmp_path_factory.mktemp("user"))


def test_a_preview_is_text_and_colour_and_lets_no_markup_in(capsys, path: Path, tmp_path: Path) -> None:
    data = tmp_path / "evil.jsonl"
    data.write_text(json_lines({"instruction": EVIL, "output": f"answer {EVIL}"}))
    recipe = raysft.load(path, {"data.train": data, "data.max_tokens": 256})
    seen = raysft.preview(recipe, 1)
    ran = command(
        capsys, "preview", path, "--num", "1", "--set", f"data.train={data}", "--set", "data.max_tokens=256"
    )
    assert ran.out == str(seen) + "\n"
    assert "[[answer <script>" in str(seen)
    page = Reader(seen._repr_html_())
    assert page.tags == {"pre", "span"}
    assert page.text.strip() == seen.colored.plain.strip()
    assert "answer <script>alert('x')</script> & \\u001b[31m" in page.text
    assert "[[" not in page.text


def test_a_preview_without_a_sample_says_so(path: Path, tmp_path: Path) -> None:
    data = tmp_path / "bad.jsonl"
    data.write_text("{broken\n")
    seen = raysft.preview(raysft.load(path, {"data.train": data}), 1)
    assert (seen.num_samples, seen.refused) == (0, "malformed_json")
    with pytest.raises(DataError, match="none of these records") as raised:
        seen.check()
    assert raised.value.got == "the one record that was read: malformed_json"
