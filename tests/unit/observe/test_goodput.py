"""Where the time went, on a terminal and on the page."""

from __future__ import annotations

from collections import Counter

import pytest

from raysft.observe.goodput import BAR, SIGNS, IncidentRow, TimeFacts, bar, svg_bar, terminal_lines
from raysft.train.history.goodput import CLASSES

ROW = IncidentRow(0.0, "worker", "<b>rank 1</b> died", 17, 1.26, 3, 2.5, None)


def facts(*incidents: IncidentRow, **seconds: float) -> TimeFacts:
    return TimeFacts(dict.fromkeys(CLASSES, 0.0) | seconds, CLASSES, incidents)


def test_every_class_has_a_sign() -> None:
    assert list(SIGNS) == list(CLASSES)
    assert len(set(SIGNS.values())) == len(SIGNS)


@pytest.mark.parametrize(
    "seconds", [{"compute": 1.0}, {"compute": 1.0, "lost": 1.0, "down": 1.0}, {"start": 99.0, "compute": 1.0}]
)
def test_the_bar_has_its_length_and_shares(seconds: dict[str, float]) -> None:
    counts = Counter(bar(facts(**seconds)))
    assert counts.total() == BAR
    wall = sum(seconds.values())
    for name, value in seconds.items():
        assert abs(counts[SIGNS[name]] - BAR * value / wall) < 1


def test_terminal_lines() -> None:
    first, _, *lines = terminal_lines(facts(ROW, compute=75.0, recovery=25.0))
    assert first == "goodput 75.0% of 100.0 s"
    assert [line.split()[1:3] for line in lines[:2]] == [["compute", "75.0%"], ["recovery", "25.0%"]]
    assert lines[-1].split()[:11] == [
        "01-01",
        "00:00:00",
        "worker",
        "17",
        "1.3",
        "s",
        "3",
        "2.5",
        "s",
        "-",
        "<b>rank",
    ]
    assert terminal_lines(facts(compute=1.0))[-1] == "no incident"
    assert terminal_lines(facts()) == ["no time is recorded"]


def test_the_bar_of_the_page_is_as_wide_as_its_parts() -> None:
    svg = svg_bar(facts(compute=3.0, lost=1.0), width=400)
    assert 'x="0.00" width="300.00"' in svg
    assert 'x="300.00" width="100.00"' in svg
