"""Material for commands, none of which may get as far as Ray."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import write_material

from raysft.run import run, steps


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_material(tmp_path_factory.mktemp("user"))


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here may get as far as Ray."""

    def started() -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(run, "cluster", started)
    monkeypatch.setattr(steps, "cluster", started)
