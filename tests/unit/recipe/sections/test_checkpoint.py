"""`checkpoint:`: steps are counted from one, and one commit is always kept."""

from __future__ import annotations

from typing import Any

import pytest
from sections import read, refused


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"every_steps": 0}, ("checkpoint.every_steps", "1 or more")),
        ({"keep_last": 0}, ("checkpoint.keep_last", "1 or more")),
        ({"keep_every_steps": 0}, ("checkpoint.keep_every_steps", "1 or more")),
        ({"keep_best": 1}, ("checkpoint.keep_best", "true or false")),
        ({"keep": 3}, ("unknown key checkpoint.keep", "keep_last")),
    ],
)
def test_what_is_refused(fields: dict[str, Any], words: tuple[str, ...]) -> None:
    told = refused(checkpoint=fields)
    assert all(word in told for word in words), told


def test_a_step_may_be_kept_for_good_or_not() -> None:
    assert read(checkpoint={"keep_every_steps": None}).checkpoint.keep_every_steps is None
    assert read(checkpoint={"keep_every_steps": 500}).checkpoint.keep_every_steps == 500
