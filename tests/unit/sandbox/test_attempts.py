"""What the probe tries: all of it succeeds where there are no barriers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from raysft.sandbox.attempts import ATTEMPTS
from raysft.sandbox.barriers import Limits


@pytest.mark.parametrize(("barrier", "attempt"), ATTEMPTS, ids=[one.__name__ for _, one in ATTEMPTS])
def test_what_is_tried_succeeds_without_barriers(barrier: str, attempt: Any, tmp_path: Path) -> None:
    """Else the probe would prove nothing."""
    outside, small = tmp_path / "secret", Limits(memory_bytes=1 << 24, file_bytes=100)
    outside.write_text("a")
    os.environ.setdefault("RAYSFT_TEST_SECRET", "a")
    read, write = os.pipe()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        facts = {"outside": str(outside), "directory": str(tmp_path), "parent": str(parent), "environment": "PATH"}
        try:
            os.write(write, attempt(facts, small).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        told = stream.read().decode()
    if attempt.__name__ == "_trace" and not told:
        pytest.skip("this machine lets nobody trace its parent")
    assert told, barrier
