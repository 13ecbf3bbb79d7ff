"""Lets the parity tests import their neighbours by name; the bench that they share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from bench import Bench


@pytest.fixture(scope="package")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """Engine processes that live as long as the session."""
    made = Bench.make(tmp_path_factory.mktemp("parity"))
    try:
        made.base = made.cell()[0]
        yield made
    finally:
        made.close()
