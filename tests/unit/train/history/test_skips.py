"""Steps that a run leaves out, as its directory keeps them."""

from __future__ import annotations

from pathlib import Path

from raysft.train.history.skips import Skip, add_skip, read_skips


def test_steps_left_out_are_read_in_order(tmp_path: Path) -> None:
    for step in (12, 3):
        add_skip(str(tmp_path), Skip(step, f"loss of {step}"))
    add_skip(str(tmp_path), Skip(3, "again"))
    assert read_skips(str(tmp_path)) == [Skip(3, "again"), Skip(12, "loss of 12")]
