"""A token store of two parts and the tables that it was made of."""

from __future__ import annotations

import pytest
from token_stores import examples, write

from raysft.data.store.manifest import write_manifest
from raysft.data.store.parts import TokenStore


@pytest.fixture
def store(tmp_path):
    tables = [examples(200, 1), examples(90, 2)]
    location = str(tmp_path / "store")
    parts = write(location, tables)
    write_manifest(location, {"parts": parts, "max_tokens": 64})
    return TokenStore.open(location), tables
