"""`optimizer:`: numbers that AdamW and its schedule can have."""

from __future__ import annotations

from typing import Any

import pytest
from sections import read, refused


@pytest.mark.parametrize(
    ("field", "right", "wrong", "why"),
    [
        ("learning_rate", 1e-9, 0, "more than 0"),
        ("warmup_steps", 0, -1, "0 or more"),
        ("min_lr_ratio", 1.0, 1.5, "1 or less"),
        ("weight_decay", 0.0, -0.1, "0 or more"),
        ("beta1", 0.0, 1.0, "less than 1"),
        ("beta2", 0.9999, 1.0, "less than 1"),
        ("eps", 1e-12, 0.0, "more than 0"),
        ("max_grad_norm", 1e6, 0, "more than 0"),
        ("schedule", "linear", "step", "cosine"),
    ],
)
def test_the_ends_of_what_is_allowed(field: str, right: Any, wrong: Any, why: str) -> None:
    assert read(optimizer={field: right}).optimizer.model_dump()[field] == right
    told = refused(optimizer={field: wrong})
    assert f"optimizer.{field}" in told
    assert why in told


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_refused(value: float) -> None:
    assert "finite" in refused(optimizer={"learning_rate": value})
