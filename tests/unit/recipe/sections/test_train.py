"""`train:`: how long and in which steps."""

from __future__ import annotations

from typing import Any

import pytest
from sections import read, refused


def test_gradients_are_summed_as_they_are_computed_unless_said() -> None:
    assert read(train={}).train.reduce_precision is None
    assert read(train={"reduce_precision": "fp32"}).train.reduce_precision == "fp32"


@pytest.mark.parametrize(
    ("train", "words"),
    [
        ({"epochs": 0}, ("train.epochs", "1 or more")),
        ({"epochs": 0.5}, ("train.epochs", "0.5")),
        ({"max_steps": 0}, ("train.max_steps", "1 or more")),
        ({"rows_per_step": 0}, ("train.rows_per_step", "1 or more")),
        ({"spike_factor": 1.0}, ("train.spike_factor", "more than 1")),
        ({"precision": "fp16"}, ("train.precision", "'fp16'", "bf16")),
        ({"batch_size": 8}, ("unknown key train.batch_size", "rows_per_step")),
    ],
)
def test_what_is_refused(train: dict[str, Any], words: tuple[str, ...]) -> None:
    told = refused(train=train)
    assert all(word in told for word in words), told
