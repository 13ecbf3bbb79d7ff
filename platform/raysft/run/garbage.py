"""Python's search for garbage, left out while millions of records are read that are all in use."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_collection() -> Iterator[None]:
    """Inside, or in a function decorated with it, cycles are not looked for.

    A page over 100,000 steps would spend a third of its time on walking through lines of which none is garbage. Of
    threads that overlap, the one that has switched it off switches it on.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
