"""`parallel:`: numbers and words that a split can have; what goes together is decided elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
from sections import read, refused


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_every_stage_of_zero(zero: int) -> None:
    assert read(parallel={"zero": zero}).parallel.zero == zero


@pytest.mark.parametrize(
    ("parallel", "words"),
    [
        ({"zero": 4}, ("parallel.zero", "0, 1, 2 or 3")),
        ({"zero": "2"}, ("parallel.zero", "'2'")),
        ({"zero": True}, ("parallel.zero", "True", "0, 1, 2 or 3")),  # to Python it is 1
        ({"zero": False}, ("parallel.zero", "False")),
        ({"zero": 2.0}, ("parallel.zero", "2.0")),
        ({"tensor": 0}, ("parallel.tensor", "1 or more")),
        ({"offload": "nvme"}, ("parallel.offload", "'nvme'", "cpu")),
        ({"secondary_shards": 0}, ("parallel.secondary_shards", "1 or more")),
        ({"tensor_parallel": 2}, ("unknown key parallel.tensor_parallel", "parallel.tensor")),
        ({"zero_stage": 2}, ("did you mean parallel.zero?",)),
    ],
)
def test_what_is_refused(parallel: dict[str, Any], words: tuple[str, ...]) -> None:
    told = refused(parallel=parallel)
    assert all(word in told for word in words), told
