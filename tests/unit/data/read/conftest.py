"""Files of given bytes."""

from __future__ import annotations

import pytest


@pytest.fixture
def put(tmp_path):
    def write(name, data):
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    return write
