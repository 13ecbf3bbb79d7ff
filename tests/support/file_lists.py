"""Folders of files, and what a location lists of them."""

from __future__ import annotations

from pathlib import Path

from raysft.data.read.listing import list_files

RECORD = '{"instruction": "q", "output": "a"}\n'


def make(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(RECORD)
    return folder


def names(location: str | Path, purpose: str | None = None, base: Path | None = None) -> list[str]:
    folder = str(base or location).rstrip("/").removeprefix("memory://")
    found = [one.location.removeprefix("memory:///") for one in list_files(str(location), purpose)]
    return [one.removeprefix(folder).lstrip("/") for one in found]
