"""Charts: points lie where their ticks say, ticks are round, long series are thinned."""

from __future__ import annotations

import math
import re
from itertools import pairwise

import pytest

from raysft.observe.charts import MAX_POINTS, Series, line_chart, log_ticks, nice_ticks, smooth, tick_texts
from raysft.observe.goodput import duration_text


def numbers(pattern: str, svg: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(pattern, svg)]


def test_points_lie_where_their_ticks_say() -> None:
    points = [(0.0, 0.0), (5.0, 10.0), (10.0, 2.5)]
    svg = line_chart([Series("s", points, "dots")], x_label="x", y_label="y", width=500, height=300)
    dots = numbers(r'<circle cx="([\d.]+)" cy="([\d.]+)"', svg)
    ticks = re.findall(r'<text class="tick" x="([\d.]+)" y="([\d.]+)" text-anchor="(\w+)">([^<]+)<', svg)
    x_of = {float(text): float(x) for x, _, anchor, text in ticks if anchor == "middle"}
    y_of = {float(text): float(y) - 4 for _, y, anchor, text in ticks if anchor == "end"}
    for (x, y), (place_x, place_y) in zip(points, dots, strict=True):
        assert place_x == pytest.approx(x_of[0] + (x_of[10] - x_of[0]) * x / 10, abs=0.2)
        assert place_y == pytest.approx(y_of[0] + (y_of[10] - y_of[0]) * y / 10, abs=0.2)
    assert y_of[10] < y_of[0]


def test_every_point_lies_inside_the_drawing() -> None:
    points = [(float(step), math.sin(step) * 1e-5 - 7) for step in range(1, 300)]
    svg = line_chart([Series("s", points, "plain")], x_label="x", y_label="y", width=400, height=200)
    (path,) = re.findall(r'<path class="plain" d="M([^"]+)"', svg)
    for pair in path.split("L"):
        x, y = map(float, pair.split())
        assert 50 <= x <= 400
        assert 0 <= y <= 170


@pytest.mark.parametrize(
    ("low", "high", "wanted", "expected"),
    [
        (0, 10, 5, [0, 2, 4, 6, 8, 10]),
        (0.13, 5.7, 6, [0, 1, 2, 3, 4, 5, 6]),
        (0, 1e-3, 3, [0, 5e-4, 1e-3]),
        (2.31, 2.39, 4, [2.3, 2.32, 2.34, 2.36, 2.38, 2.4]),
        (-3, 4, 3, [-5, -2.5, 0, 2.5, 5]),
    ],
)
def test_ticks_are_round_and_embrace_the_values(low: float, high: float, wanted: int, expected: list[float]) -> None:
    assert nice_ticks(low, high, wanted) == pytest.approx(expected)


@pytest.mark.parametrize("value", [0.0, 3.0, -2.0, 1e-9])
def test_one_value_alone_has_ticks_around_it(value: float) -> None:
    ticks = nice_ticks(value, value, 4)
    assert ticks[0] < value < ticks[-1]


def test_ticks_of_steps_are_whole() -> None:
    assert all(tick == int(tick) for tick in nice_ticks(0, 3, 10, whole=True))
    assert nice_ticks(0, 400, 4, whole=True) == [0, 100, 200, 300, 400]


@pytest.mark.parametrize(
    ("ticks", "texts"),
    [
        ([0, 5e-4, 1e-3], ["0", "5e-4", "1e-3"]),
        ([0, 2.5e-5, 5e-5], ["0", "2.5e-5", "5e-5"]),
        ([0, 0.25, 0.5], ["0", "0.25", "0.50"]),
        ([2.3, 2.32, 2.34], ["2.30", "2.32", "2.34"]),
        ([0, 5000, 10000], ["0", "5k", "10k"]),
        ([0, 50, 100], ["0", "50", "100"]),
        ([0, 2.5e6, 5e6], ["0", "2.5M", "5.0M"]),
        ([-5, -2.5, 0], ["-5.0", "-2.5", "0"]),
    ],
)
def test_ticks_are_written_in_one_notation(ticks: list[float], texts: list[str]) -> None:
    assert tick_texts(ticks) == texts


def test_smoothing_keeps_a_line_and_calms_noise() -> None:
    line = [(float(i), 3.0 - 0.01 * i) for i in range(200)]
    for (x, y), (a, b) in zip(line, smooth(line), strict=True):
        assert (a, b) == pytest.approx((x, y))
    noisy = [(float(i), (-1.0) ** i) for i in range(200)]
    assert max(abs(y) for _, y in smooth(noisy)[20:-20]) < 0.15
    assert smooth([(1.0, 2.0), (2.0, math.nan), (3.0, 2.0)]) == [(1.0, 2.0), (3.0, 2.0)]
    assert smooth([]) == []


def test_long_series_are_thinned_and_keep_their_end() -> None:
    points = [(float(i), i / 12345) for i in range(12345)]
    svg = line_chart([Series("s", points, "plain")], x_label="x", y_label="y", width=500, height=200)
    (path,) = re.findall(r'<path class="plain" d="M([^"]+)"', svg)
    assert MAX_POINTS // 2 < len(path.split("L")) <= MAX_POINTS + 1
    assert float(path.split("L")[-1].split()[0]) == pytest.approx(500 - 14)


@pytest.mark.parametrize("at", [0, 7, 50_001, 99_999])
def test_one_odd_point_of_very_many_is_drawn(at: int) -> None:
    points = [(float(i), 1.0 if i != at else 9.0) for i in range(100_000)]
    svg = line_chart([Series("s", points, "raw")], x_label="x", y_label="y", width=500, height=200)
    (path,) = re.findall(r'<path class="raw" d="M([^"]+)"', svg)
    heights = [float(place.split()[1]) for place in path.split("L")]
    assert heights.count(min(heights)) == 1
    assert min(heights) < max(heights) - 50


def test_a_very_long_curve_is_smoothed_at_some_of_its_points() -> None:
    points = [(float(i), 3.0 - i / 50_000) for i in range(100_000)]
    found = smooth(points)
    assert len(found) <= MAX_POINTS + 1
    assert (found[0][0], found[-1][0]) == (0.0, 99_999.0)
    assert all(y == pytest.approx(3.0 - x / 50_000) for x, y in found)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (59.9, "59.9 s"), (187.3, "3 min 07 s"), (3 * 3600 + 301, "3 h 05 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0004, 5.7, [1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0]),
        (0.1, 3.0, [0.1, 0.2, 0.5, 1.0, 2.0, 5.0]),
        (0.1, 10.0, [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0]),
    ],
)
def test_ticks_of_a_logarithmic_axis(low: float, high: float, expected: list[float]) -> None:
    assert log_ticks(low, high) == expected


def test_a_loss_that_falls_far_has_a_logarithmic_axis_and_others_have_not() -> None:
    def drawn(values: list[float]) -> str:
        series = [Series("loss", list(enumerate(values)), "dots")]
        return line_chart(series, x_label="step", y_label="loss", width=400, height=200, may_be_log=True)

    falling = drawn([10.0, 1.0, 0.1, 0.01])
    assert "loss (logarithmic)" in falling
    heights = [float(y) for y in re.findall(r'<circle[^>]* cy="([0-9.]+)"', falling)]
    assert len(heights) == 4
    gaps = [b - a for a, b in pairwise(heights)]
    assert gaps == pytest.approx([gaps[0]] * 3, abs=0.2)
    assert gaps[0] > 10
    for values in ([10.0, 9.0], [10.0, 0.0], [1.0, -1.0]):
        assert "logarithmic" not in drawn(values)


@pytest.mark.parametrize("high", [1000.0000000000001, 1e300 * (1 + 2e-16)])
def test_a_value_just_above_a_power_of_ten_has_a_logarithmic_axis(high: float) -> None:
    """log10 of it is that of the power."""
    assert log_ticks(1.0, high)[-1] == pytest.approx(high)
