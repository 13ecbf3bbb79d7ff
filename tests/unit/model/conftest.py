"""A model directory of the kind that most tests of model/ begin with."""

from __future__ import annotations

from pathlib import Path

import pytest
from models import write_llama


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A small Llama, written by transformers alone."""
    return write_llama(tmp_path / "model-a")
