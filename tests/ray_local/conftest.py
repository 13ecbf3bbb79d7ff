"""One small Ray cluster for all tests here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

PLATFORM = str(Path(__file__).resolve().parents[2] / "platform")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    os.environ["HF_HUB_OFFLINE"] = "1"
    ray.init(
        num_cpus=2, include_dashboard=False, runtime_env={"env_vars": {"PYTHONPATH": PLATFORM, "HF_HUB_OFFLINE": "1"}}
    )
    yield
    ray.shutdown()
