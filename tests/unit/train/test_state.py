"""What crosses from the worker to the driver, and which decision is the strongest."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError

import pytest

from raysft.errors import DataError, from_fields, to_fields
from raysft.train.state import Decision, Outcome, TrainState


def test_a_state_and_an_outcome_come_back_from_json() -> None:
    state = TrainState(
        step=7, skipped_steps=1, tokens=10**13, target_tokens=0.1 + 0.2, cursor={"epoch": 2, "index": 5}
    )
    assert TrainState(**json.loads(json.dumps(state.to_json()))) == state
    error = DataError("it broke", got="a", expected="b", fix="c")
    outcome = Outcome("failed", 3, "why", to_fields(error))
    back = Outcome(**json.loads(json.dumps(outcome.to_json())))
    assert back == outcome
    assert back.error is not None
    assert str(from_fields(back.error)) == str(error)


def test_a_state_of_an_earlier_version_has_no_cursor() -> None:
    old = {"step": 3, "skipped_steps": 0, "tokens": 5, "target_tokens": 2.0}
    assert TrainState(**old).cursor == {}  # type: ignore[arg-type]


def test_what_happened_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        TrainState().step = 5  # type: ignore[misc]


def test_decisions_from_the_weakest_to_the_strongest() -> None:
    """Going on, keeping, ending to go on, leaving data out, ending for good."""
    order = sorted(Decision, key=lambda decision: decision.value)
    assert [one.name for one in order] == ["CONTINUE", "CHECKPOINT", "INTERRUPT", "FINISH", "ROLLBACK", "STOP"]
    assert len({one.value for one in order}) == 6
