"""A check as an object: what the command prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from commands import raysft as command
from commands import write_material
from html_page import Reader

import raysft


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_material(tmp_path_factory.mktemp("user"))


def test_a_check_is_what_the_command_prints(capsys, path: Path) -> None:
    found = raysft.check(raysft.load(path))
    ran = command(capsys, "check", path)
    assert ran.out == str(found) + "\n"
    assert (found.model_type, found.total_steps) == ("llama", 2)
    assert found.location == str(path.parent / "storage" / "runs" / "tiny")
    num_parameters = 270 * 32 * 2 + 4 * 32 * 32 + 3 * 32 * 64 + 3 * 32
    assert re.findall(r"([\d,]+) parameters", str(found)) == [f"{num_parameters:,}"]
    assert Reader(found._repr_html_()).tags >= {"table", "td"}
