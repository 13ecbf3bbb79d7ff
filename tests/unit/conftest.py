"""What tests of several rooms begin with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(params=["path", "file", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The same place under three kinds of location."""
    if request.param == "memory":
        import fsspec

        yield f"memory://{tmp_path.name}"
        fsspec.filesystem("memory").store.clear()
        return
    yield str(tmp_path) if request.param == "path" else tmp_path.as_uri()
