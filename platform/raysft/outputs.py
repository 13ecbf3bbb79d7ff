"""Files that a command writes because a person named them: whole or not at all, and never over what it reads."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from raysft import storage
from raysft.errors import ConflictError, StorageError


def check_apart(written: Mapping[str, str | None], read: Mapping[str, str | None]) -> None:
    """Is no file written that is read, or written twice? Both: {option: its file, None where it is not given}.

    Links and other spellings of a path are the same file. Raises ConflictError.
    """
    seen = {os.path.realpath(file): (option, file) for option, file in read.items() if file}
    for option, file in written.items():
        place = os.path.realpath(file) if file else ""
        if place in seen:
            other, named = seen[place]
            raise ConflictError(
                f"{option} and {other} are one file",
                got=f"{file} and {named}" if file != named else str(file),
                expected="a file of its own for what is written",
                fix=f"name another file by {option}",
            )
        if file:
            seen[place] = option, file


def check_page(location: str, beside: str | None = None) -> None:
    """Is there nothing yet where a page is to be written, or a page of ours? beside: a file that is written with it.

    Raises ConflictError.
    """
    is_page = _begins_as_page(location)
    for place, is_ours in ((location, is_page), (beside, is_page)):
        if place is not None and not is_ours and storage.exists(place):
            raise ConflictError(
                "a page would be written over something else",
                got=f"--out {location}, and {place} is there already"
                + ("" if place == location else ", which is written with it"),
                expected="a new file, or an earlier page of this command",
                fix="name another file by --out",
            )


def _begins_as_page(location: str) -> bool:
    try:
        with closing(storage.open_random(location)) as file:
            return file.read_at(len(_PAGE), 0).lower() == _PAGE
    except OSError:
        return False


_PAGE = b"<!doctype html>"
"""What every page begins with (observe/templates)."""


def write_text(location: str, text: str) -> None:
    """Write a file. Lone surrogates, which UTF-8 cannot hold, are escaped as JSON does it. Raises StorageError."""
    part = Path(f"{location}.part")
    try:
        part.write_text(text, encoding="utf-8", errors="backslashreplace")
        part.replace(location)
    except OSError as error:
        raise StorageError(
            f"cannot write {location}", got=str(error), expected="a file that can be written", fix="name another"
        ) from error
