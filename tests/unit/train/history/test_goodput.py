"""Goodput: random histories are played on a clock of the test's own, which knows what each nanosecond was."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysft.train.history.goodput import CLASSES, AttemptTime, DriverTime, Span, fold, total_ns, wall_ns

TIMES = st.integers(0, 10**12)
KINDS = ("start", "compute", "evaluation", "checkpoint")
PHASES = ("start", "prepare", "evaluation", "train", "export")


def spans() -> st.SearchStrategy[list[Span]]:
    span = st.builds(Span, st.sampled_from(KINDS), TIMES, st.integers(0, 20), TIMES)
    return st.lists(span, max_size=6)


@st.composite
def anything(draw: st.DrawFn) -> tuple[list[DriverTime], list[AttemptTime], list[tuple[int, int, int | None]]]:
    """Files of any content that could be read, clocks that jump included."""
    drivers: list[DriverTime] = []
    attempts: list[AttemptTime] = []
    for _ in range(draw(st.integers(1, 4))):
        first = len(attempts) + 1
        for _ in range(draw(st.integers(0, 3))):
            status = draw(st.sampled_from(["", "finished", "interrupted", "rollback"]))
            attempts.append(
                AttemptTime(len(attempts) + 1, draw(spans()), status, draw(st.sampled_from(["", "stop"])))
            )
        moments = sorted(draw(st.lists(TIMES, min_size=5, max_size=5)))
        seen = {number: draw(TIMES) for number in range(first, len(attempts) + 1) if draw(st.booleans())}
        drivers.append(
            DriverTime(
                phases=[("start", 0), *zip(PHASES[1:], moments[:4], strict=True)],
                last_ns=draw(st.one_of(st.just(moments[4]), TIMES)),
                began_at_ns=draw(TIMES),
                last_at_ns=draw(TIMES),
                ended=draw(st.booleans()),
                first_attempt=draw(st.sampled_from([first, None])),
                seen=dict(sorted(seen.items())),
            )
        )
    limits = draw(st.lists(st.one_of(st.none(), st.integers(0, 20)), min_size=len(attempts), max_size=len(attempts)))
    lineage = [(i + 1, 0, limit) for i, limit in enumerate(limits) if draw(st.booleans())]
    return drivers, attempts, lineage


@settings(max_examples=40)
@given(anything())
def test_every_nanosecond_is_in_one_class_whatever_the_files_say(
    history: tuple[list[DriverTime], list[AttemptTime], list[tuple[int, int, int | None]]],
) -> None:
    drivers, attempts, lineage = history
    pieces = fold(drivers, attempts, lineage)
    assert all(piece.ns >= 0 for piece in pieces)
    assert {piece.name for piece in pieces} <= set(CLASSES)
    wall = sum(total_ns(pieces).values())
    assert wall == sum(piece.ns for piece in pieces) == wall_ns(drivers, attempts)
    assert wall >= max(driver.last_ns for driver in drivers if driver.ended or driver is drivers[-1]) or not drivers


@dataclass
class Play:
    """A history as it happens: `truth` is told by whoever spends the time."""

    truth: Counter[str] = field(default_factory=Counter)
    now: int = 10**15
    drivers: list[DriverTime] = field(default_factory=list)
    attempts: list[AttemptTime] = field(default_factory=list)
    lineage: list[tuple[int, int, int | None]] = field(default_factory=list)

    def spend(self, name: str, ns: int) -> int:
        self.truth[name] += ns
        self.now += ns
        return ns


@st.composite
def plays(draw: st.DrawFn) -> Play:
    """Drivers, attempts and steps; commits every 3 steps; anything may be killed. Drivers see attempts at once."""
    some = st.integers(1, 10**10)
    play, committed, parents, failed = Play(), 0, [], False
    num_drivers = draw(st.integers(1, 3))
    lost: list[tuple[int, int, Counter[str]]] = []  # (attempt, step, what its time was)
    for i in range(num_drivers):
        began, phases, seen = play.now, [("start", 0)], {}
        play.spend("recovery" if failed else "start", draw(some))
        phases.append(("prepare", play.now - began))
        play.spend("prepare", draw(some))
        phases.append(("train", play.now - began))
        first = len(play.attempts) + 1
        num = draw(st.integers(1, 3))
        for j in range(num):
            number = len(play.attempts) + 1
            parents.append(committed)
            play.spend("recovery" if failed else "start", draw(some))
            seen[number] = play.now - began
            written = [Span("start", play.spend("recovery" if failed else "start", draw(some)), committed)]
            for step in range(committed + 1, committed + 1 + draw(st.integers(0, 5))):
                wait, work = draw(some), draw(some)
                play.spend("recovery" if failed else "data_wait", wait)
                used = Counter({"data_wait": 0 if failed else wait, "compute": play.spend("compute", work)})
                written.append(Span("compute", wait + work, step, wait))
                failed = False
                if step % 3 == 0:
                    save = draw(some)
                    used["checkpoint"] = play.spend("checkpoint", save)
                    written.append(Span("checkpoint", save, step))
                lost.append((number, step, used))
                if step % 3 == 0 and draw(st.booleans()):
                    committed = step
            is_last = j == num - 1
            ending = draw(st.sampled_from(["killed", "stop"])) if is_last else "killed"
            failed = failed or ending == "killed"
            play.attempts.append(
                AttemptTime(number, written, *(("interrupted", "stop") if ending == "stop" else ("", "")))
            )
            play.spend("recovery" if failed else "start", draw(some))
        last = play.now
        play.drivers.append(DriverTime(phases, last - began, began, last, True, first, seen))
        if i < num_drivers - 1:
            play.spend("down", draw(some))
    for number, (parent, following) in enumerate(pairwise([*parents, None]), start=1):
        assert parent is not None
        play.lineage.append((number, parent, following))
        for attempt, step, used in lost:
            if attempt == number and following is not None and step > following:
                play.truth.subtract(used)
                play.truth["lost"] += sum(used.values())
    return play


@settings(max_examples=40)
@given(plays())
def test_the_classes_are_what_happened(play: Play) -> None:
    found = total_ns(fold(play.drivers, play.attempts, play.lineage))
    assert found == {name: play.truth[name] for name in CLASSES}


def driver(*phases: tuple[str, int], last: int, at: int = 0, **fields: object) -> DriverTime:
    plain = {"began_at_ns": at, "last_at_ns": at + last, "ended": True, "first_attempt": 1}
    return DriverTime(phases, last, **(plain | fields))  # type: ignore[arg-type]


def test_an_attempt_that_was_seen_late_is_moved_back() -> None:
    first = driver(("start", 0), ("train", 10), last=100, seen={1: 45})
    attempt = AttemptTime(1, [Span("start", 20, 0), Span("compute", 40, 1, 5)], "finished")
    assert total_ns(fold([first], [attempt], [(1, 0, None)])) == dict.fromkeys(CLASSES, 0) | {
        "start": 10 + 30 + 20,  # it began at 40, for it ended by 100
        "data_wait": 5,
        "compute": 35,
    }


@pytest.mark.parametrize(("next_at", "down"), [(500, 300), (260, 60), (230, 30), (150, 0), (-(10**6), 0)])
def test_a_killed_driver_lives_as_long_as_its_workers_showed(next_at: int, down: int) -> None:
    killed = driver(("start", 0), ("train", 10), last=100, at=100, ended=False, seen={1: 20})  # last sign at 200
    again = driver(("start", 0), last=7, at=next_at, first_attempt=None)
    attempt = AttemptTime(1, [Span("start", 30, 0), Span("compute", 50, 1)])
    found = total_ns(fold([killed, again], [attempt], [(1, 0, None)]))
    assert found["down"] == down
    assert found["compute"] == 50
    assert sum(found.values()) == 100 + down + 7


def test_workers_that_outlive_the_last_beat() -> None:
    killed = driver(("start", 0), ("train", 10), last=60, at=100, ended=False, seen={1: 20})
    again = driver(("start", 0), last=7, at=400, first_attempt=None)
    attempt = AttemptTime(1, [Span("start", 30, 0), Span("compute", 50, 1)])  # until 100
    found = total_ns(fold([killed, again], [attempt], [(1, 0, None)]))
    assert (found["compute"], found["down"]) == (50, 400 - 200)


@pytest.mark.parametrize("made", [[AttemptTime(2, [Span("start", 1, 0)], "interrupted", "stop")], []])
def test_a_command_without_a_step_does_not_end_a_recovery(made: list[AttemptTime]) -> None:
    """A worker is killed; the next command is stopped before its first step; the third one recovers."""
    commands = [
        driver(("start", 0), ("train", 10), last=50, at=1000 * number, first_attempt=number, seen={number: 20})
        for number in (1, 2, 3)
    ]
    killed = AttemptTime(1, [Span("start", 10, 0), Span("compute", 5, 1)])
    again = AttemptTime(3, [Span("start", 10, 0), Span("compute", 20, 1)], "finished")
    found = total_ns(fold(commands, [killed, *made, again], [(1, 0, 0), (2, 0, 0), (3, 0, None)]))
    first = 20 + 10  # of the first command: its start, and that of its attempt
    assert found["start"] == first
    assert (found["lost"], found["compute"]) == (5, 20)
    assert found["recovery"] == 50 - first - 5 + 50 + 20 + 10


def test_a_running_attempt_computes_until_the_last_beat() -> None:
    alive = driver(("start", 0), ("train", 10), last=100, ended=False, seen={1: 20})
    attempt = AttemptTime(1, [Span("start", 30, 0), Span("compute", 20, 1)])
    found = total_ns(fold([alive], [attempt], [(1, 0, None)]))
    assert (found["start"], found["compute"], found["recovery"]) == (10 + 10 + 30, 20 + 30, 0)
