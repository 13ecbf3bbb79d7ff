"""Errors of optional packages that are installed and cannot be imported, told as such.

transformers and peft import them where they are there, whatever the run asks for: one that was made for another torch
ends a run of text with an error about images.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from raysft.doctor.facts import OPTIONAL
from raysft.errors import ModelError


@contextmanager
def told() -> Iterator[None]:
    """Inside, or of a function that this decorates: such an error is raised as what can be done about it."""
    try:
        yield
    except Exception as error:
        found = broken_import(error)
        if found is None or found is error:
            raise
        raise found from error


def broken_import(error: BaseException) -> ModelError | None:
    """What can be done about an error that an optional package raised when it was imported; None: it is another."""
    for one in _chain(error):
        file = _raised_in(one)
        for name in OPTIONAL:
            is_its_own = f"/{name}/" in file
            is_about_it = isinstance(one, ImportError) and name in str(one)
            if is_its_own or is_about_it:
                return ModelError(
                    f"the installed package {name} cannot be used, and transformers or peft import it",
                    got=f"{type(one).__name__}: {' '.join(str(one).split())[:300]}",
                    expected=f"no {name}, or the one that was made for the installed torch",
                    fix=f"pip uninstall {name} (raysft does not need it), or install the one of this torch; "
                    "`raysft doctor` looks at every node",
                )
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, what caused it, and so on."""
    seen: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in seen:
        seen.append(one)
        yield one
        one = one.__cause__ or one.__context__


def _raised_in(error: BaseException) -> str:
    """The file of the last frame of its traceback; empty: it was never raised."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return frames[-1].f_code.co_filename if frames else ""
