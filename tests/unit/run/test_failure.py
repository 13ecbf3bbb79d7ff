"""The policy over histories of attempts, each with what must follow."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from raysft.run.failure import AttemptEnd, Kind, Limits, Retry, Stop, decide

THREE = Limits(max_failures=3, may_halve=False)


def crash(gained: int = 0, kind: Kind = "worker") -> AttemptEnd:
    return AttemptEnd(kind, "it died", gained)


def bug(step: int, *, gained: int = 0, certain: bool = False) -> AttemptEnd:
    return AttemptEnd("code", "ValueError: x", gained, error=f"ValueError: x after step {step}", certain=certain)


@pytest.mark.parametrize(
    ("history", "after_s"),
    [
        ([crash(gained=5)], 0),
        ([crash()], 0),
        ([crash(), crash()], 2),
        ([crash(), crash(), crash()], 4),
        ([crash(), crash(), crash(gained=1)], 0),  # a new row
        ([crash(gained=1)] * 50, 0),
        ([crash(gained=9), crash()], 2),
        ([crash(), crash(kind="resize"), crash()], 2),  # what was planned is not counted, nor does it end a row
        ([crash(), crash(kind="preempted")], 0),
        ([crash(kind="preempted")] * 50, 0),
        ([crash(), crash(kind="preempted", gained=3), crash()], 0),
        ([bug(7), bug(8)], 2),
        ([bug(7), crash(), bug(7)], 4),
        ([bug(7), bug(7, gained=2)], 0),  # it moves on: not the same
        ([crash(kind="memory")], 0),
        ([crash(kind="memory"), crash(), crash(kind="memory")], 4),
        ([crash(kind="memory"), crash(kind="memory", gained=4)], 0),
    ],
)
def test_goes_on(history: Sequence[AttemptEnd], after_s: float) -> None:
    assert decide(history, THREE) == Retry(after_s)


def test_back_off_doubles_up_to_a_limit() -> None:
    waits = []
    for number in range(1, 14):
        decision = decide([crash()] * number, Limits(max_failures=100, may_halve=False))
        assert isinstance(decision, Retry)
        waits.append(decision.after_s)
    assert waits == [0, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300, 300]


@pytest.mark.parametrize(
    ("history", "limits", "words"),
    [
        ([crash()] * 4, THREE, "4 failures without a committed step between them (4 x worker)"),
        ([crash(gained=2), *[crash()] * 3], THREE, "4 failures"),
        ([crash(), crash(kind="node"), crash(), crash(kind="start")], THREE, "(2 x worker, 1 x node, 1 x start)"),
        ([crash(gained=2)], Limits(max_failures=0, may_halve=False), "1 failures"),
        ([bug(7), bug(7)], THREE, "the same error twice"),
        ([bug(7), crash(kind="preempted"), bug(7)], THREE, "the same error twice"),
        ([bug(7, certain=True)], THREE, "ValueError: x"),
        ([bug(7, gained=3, certain=True)], THREE, "ValueError: x"),
        ([crash(kind="rollback")] * 4, THREE, "(4 x rollback)"),
        ([crash(kind="memory")] * 2, THREE, "ran out of memory twice"),
    ],
)
def test_stops(history: Sequence[AttemptEnd], limits: Limits, words: str) -> None:
    decision = decide(history, limits)
    assert isinstance(decision, Stop)
    assert words in decision.reason
    assert decision.fix


def test_a_kill_for_memory_halves_the_micro_batch_where_that_is_allowed() -> None:
    may = Limits(max_failures=0, may_halve=True)
    assert decide([crash(kind="memory")], may) == Retry(smaller_micro_batch=True)
    assert decide([crash(kind="memory")] * 5, may) == Retry(smaller_micro_batch=True)
    assert isinstance(decide([crash()], may), Stop)
