"""What a recipe's wish for the same bits does to a process; it holds for one run, not for the next in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from raysft.train.same_bits import fix_order


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    environment = dict(os.environ)
    yield
    fix_order(False)
    os.environ.clear()
    os.environ.update(environment)


def test_it_is_on_for_the_runs_that_ask_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    fix_order(False)
    assert not torch.are_deterministic_algorithms_enabled()
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    fix_order(True)
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    settings: Any = torch.utils.deterministic
    assert settings.fill_uninitialized_memory is False
    fix_order(False)
    assert not torch.are_deterministic_algorithms_enabled()
