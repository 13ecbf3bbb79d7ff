"""Line and bar charts as inline SVG: scales, ticks, paths. Knows no run; colours are the page's CSS classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import accumulate
from operator import itemgetter

Point = tuple[float, float]

MAX_POINTS = 1000
"""Longer series are drawn by the lowest and the highest point of each stretch: one odd step is seen."""
MAX_LOOKS = 60
"""Points of a line whose values can be looked at."""
LOG_FROM = 20.0
"""Largest over smallest value from which a logarithmic axis shows more."""
_UNITS = ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k"))
_LEFT, _RIGHT, _TOP, _BOTTOM = 58.0, 14.0, 14.0, 40.0


@dataclass(frozen=True)
class Series:
    """Points in order of x. `style` is a CSS class: raw, smooth, plain (lines), dots, pruned and failed (no line),
    `run c0` to `run c7` (lines of several runs)."""

    label: str
    points: Sequence[Point]
    style: str


@dataclass(frozen=True)
class Axis:
    """Values from low to high at positions `start` to `end` of the drawing; is_log: equal ratios are equally far."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def __call__(self, value: float) -> float:
        """Position of a value."""
        low, high = self.low, self.high
        if self.is_log:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        return self.start + (value - low) / (high - low) * (self.end - self.start)


def line_chart(
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    width: int,
    height: int,
    y_from_zero: bool = False,
    may_be_log: bool = False,
) -> str:
    """One SVG element, x from 0. Points that are not finite are left out; without any, it says so.

    may_be_log: y is logarithmic, and says so, where all values are positive and the largest is LOG_FROM times the
    smallest: the end of a curve that falls from 6 to 0.001 would lie on the axis.
    """
    drawn = [Series(s.label, _thin([p for p in s.points if math.isfinite(p[1])]), s.style) for s in series]
    everything = [point for s in drawn for point in s.points]
    head = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(y_label)} by {escape(x_label)}">'
    if not everything:
        middle = f'<text class="tick" x="{width / 2:g}" y="{height / 2:g}" text-anchor="middle">no data</text>'
        return f"{head}{middle}</svg>"
    last_x, ys = max(1.0, *(x for x, _ in everything)), [y for _, y in everything] + [0.0] * y_from_zero
    x_ticks = [tick for tick in nice_ticks(0, last_x, max(2, width // 100), whole=True) if tick <= last_x]
    is_log = may_be_log and min(ys) > 0 and max(ys) >= LOG_FROM * min(ys)
    y_ticks = log_ticks(min(ys), max(ys)) if is_log else nice_ticks(min(ys), max(ys), max(3, height // 60))
    y_label += " (logarithmic)" * is_log
    x_axis = Axis(0, last_x, _LEFT, width - _RIGHT)
    y_axis = Axis(y_ticks[0], y_ticks[-1], height - _BOTTOM, _TOP, is_log)
    body = [*_grid(x_ticks, x_axis, y_ticks, y_axis), *_labels(x_label, y_label, x_axis, y_axis)]
    body += [_draw(s, x_axis, y_axis) for s in drawn if s.points]
    return f"{head}{''.join(body)}</svg>"


def histogram(
    counts: Sequence[float],
    x_ticks: Sequence[tuple[float, str]],
    *,
    x_label: str,
    y_label: str,
    width: int,
    height: int,
    titles: Sequence[str],
    mark: tuple[float, str] | None = None,
) -> str:
    """One SVG element: a bar per count, bar i from x = i to i + 1. `mark`: an upright line at x, with its name."""
    x_axis = Axis(0, len(counts) or 1, _LEFT, width - _RIGHT)
    y_ticks = [
        tick for tick in nice_ticks(0, max(counts, default=0) or 1, max(3, height // 60), whole=True) if tick >= 0
    ]
    y_axis = Axis(0, y_ticks[-1], height - _BOTTOM, _TOP)
    body = [*_grid([], x_axis, y_ticks, y_axis), *_labels(x_label, y_label, x_axis, y_axis)]
    for index, (number, title) in enumerate(zip(counts, titles, strict=True)):
        x, y = x_axis(index), y_axis(number)
        place = f'x="{x + 0.75:.1f}" y="{y:.1f}"'
        place += f' width="{x_axis(index + 1) - x - 1.5:.1f}" height="{y_axis.start - y:.1f}"'
        body.append(f'<rect class="bar" {place} rx="2"><title>{escape(title)}</title></rect>')
    for at, text in x_ticks:
        place = f'x="{x_axis(at):.1f}" y="{y_axis.start + 17:g}"'
        body.append(f'<text class="tick" {place} text-anchor="middle">{escape(text)}</text>')
    if mark is not None:
        x, anchor = x_axis(mark[0]), "end" if mark[0] > len(counts) / 2 else "start"
        body.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP:g}" y2="{y_axis.start:g}"/>')
        place = f'x="{x + (-6 if anchor == "end" else 6):.1f}" y="{_TOP + 12:g}" text-anchor="{anchor}"'
        body.append(f'<text class="mark" {place}>{escape(mark[1])}</text>')
    label = f"{escape(y_label)} by {escape(x_label)}"
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}">{"".join(body)}</svg>'


def nice_ticks(low: float, high: float, wanted: int, *, whole: bool = False) -> list[float]:
    """About `wanted` round numbers (1, 2, 2.5, 5 x 10^k apart) whose ends embrace low..high.

    whole: integers at least 1 apart (for steps).
    """
    if not high > low:
        pad = abs(low) * 0.5 or 0.5
        low, high = (low, low + 1) if whole else (low - pad, high + pad)
    rough = (high - low) / max(1, wanted)
    power = 10.0 ** math.floor(math.log10(rough))
    gap = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    if whole:
        gap = max(1.0, float(math.ceil(gap)))
    first, last = math.floor(low / gap + 1e-9), math.ceil(high / gap - 1e-9)
    return [index * gap for index in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 x 10^k, or powers of ten over more than two decades, whose ends embrace low..high, both positive."""
    steps = (1,) if high > 100 * low else (1, 2, 5)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [float(f"{step}e{power}") for power in powers for step in steps]
    first = max((index for index, tick in enumerate(ticks) if tick <= low), default=0)
    last = min((index for index, tick in enumerate(ticks) if tick >= high), default=len(ticks) - 1)
    return ticks[first : last + 1]


def tick_texts(ticks: Sequence[float]) -> list[str]:
    """Ticks in one notation: `0 5e-4 1e-3`, `0.25 0.50`, `8 10`, `8k 10k`."""
    if not ticks:
        return []
    largest, gap = max(abs(tick) for tick in ticks), ticks[1] - ticks[0]
    if 0 < largest < 1e-2:
        return [f"{mantissa:g}e{power}" if mantissa else "0" for mantissa, power in map(_scientific, ticks)]
    unit, suffix = next(((unit, suffix) for least, unit, suffix in _UNITS if largest >= least), (1.0, ""))
    decimals = next((d for d in range(9) if abs(round(gap / unit, d) - gap / unit) < 1e-9 * gap / unit), 9)
    return [f"{tick / unit:.{decimals}f}{suffix}" if tick else "0" for tick in ticks]


def smooth(points: Sequence[Point]) -> list[Point]:
    """Mean over a window of 1/20 of the points around each, narrower towards the ends, so that nothing lags.

    Around every n-th point, and the last, where there are more than are drawn.
    """
    finite = [point for point in points if math.isfinite(point[1])]
    last = len(finite) - 1
    sums = list(accumulate((y for _, y in finite), initial=0.0))
    reach, averaged = max(1, len(finite) // 40), []
    stride = math.ceil(2 * len(finite) / MAX_POINTS) if len(finite) > MAX_POINTS else 1
    for i in [*range(0, last, stride), last] if finite else ():
        half = min(reach, i, last - i)
        averaged.append((finite[i][0], (sums[i + half + 1] - sums[i - half]) / (2 * half + 1)))
    return averaged


def _short(value: float) -> str:
    """`0.1`, `20`, `1e-4`."""
    mantissa, power = _scientific(value)
    return f"{value:g}" if -2 < power < 4 else f"{mantissa:g}e{power}"


def _scientific(value: float) -> tuple[float, int]:
    mantissa, _, power = f"{value:.3e}".partition("e")
    return float(mantissa), int(power)


def _thin(points: Sequence[Point]) -> list[Point]:
    if len(points) <= MAX_POINTS:
        return list(points)
    length = math.ceil(2 * len(points) / MAX_POINTS)
    stretches = [points[start : start + length] for start in range(0, len(points), length)]
    ends = ((min(near, key=_height), max(near, key=_height)) for near in stretches)
    kept = [point for low, high in ends for point in (sorted((low, high)) if low != high else (low,))]
    return kept if kept[-1] == points[-1] else [*kept, points[-1]]


_height = itemgetter(1)


def _grid(x_ticks: Sequence[float], x_axis: Axis, y_ticks: Sequence[float], y_axis: Axis) -> list[str]:
    parts = []
    y_texts = [_short(tick) for tick in y_ticks] if y_axis.is_log else tick_texts(y_ticks)
    for tick, text in zip(y_ticks, y_texts, strict=True):
        y = y_axis(tick)
        parts.append(f'<line class="grid" x1="{x_axis.start:g}" x2="{x_axis.end:g}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{x_axis.start - 8:g}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    for tick, text in zip(x_ticks, tick_texts(x_ticks), strict=True):
        place = f'x="{x_axis(tick):.1f}" y="{y_axis.start + 17:g}"'
        parts.append(f'<text class="tick" {place} text-anchor="middle">{text}</text>')
    return parts


def _labels(x_label: str, y_label: str, x_axis: Axis, y_axis: Axis) -> list[str]:
    y = (y_axis.start + y_axis.end) / 2
    return [
        f'<text class="label" x="{(x_axis.start + x_axis.end) / 2:g}" y="{y_axis.start + 34:g}" '
        f'text-anchor="middle">{escape(x_label)}</text>',
        f'<text class="label" transform="translate(12 {y:g}) rotate(-90)" '
        f'text-anchor="middle">{escape(y_label)}</text>',
    ]


def _values(series: Series, places: Sequence[Point]) -> str:
    """Unseen circles along a smooth or plain line, which tell its values to a pointer that rests there."""
    if series.style not in ("smooth", "plain") and not series.style.startswith("run "):
        return ""
    stride = math.ceil(len(places) / MAX_LOOKS)
    found = list(zip(places, series.points, strict=True))[::stride]
    return "".join(
        f'<circle class="look" cx="{x:.1f}" cy="{y:.1f}" r="5"><title>{escape(series.label)} at {at:g}: {value:.4g}'
        "</title></circle>"
        for (x, y), (at, value) in found
    )


def _draw(series: Series, x_axis: Axis, y_axis: Axis) -> str:
    places = [(x_axis(x), y_axis(y)) for x, y in series.points]
    if series.style in ("dots", "pruned", "failed"):
        title = [f"{escape(series.label)} at {x:g}: {y:.4g}" for x, y in series.points]
        dots = [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4"><title>{text}</title></circle>'
            for (x, y), text in zip(places, title, strict=True)
        ]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        joined = f'<polyline points="{line}"/>' if series.style == "dots" else ""
        return f'<g class="{series.style}">{joined}{"".join(dots)}</g>'
    if len(places) == 1:  # a line of one point would be nothing
        (x, y), (at, value) = places[0], series.points[0]
        told = f"<title>{escape(series.label)} at {at:g}: {value:.4g}</title>"
        return f'<circle class="{escape(series.style)}" cx="{x:.1f}" cy="{y:.1f}" r="3">{told}</circle>'
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    return f'<path class="{escape(series.style)}" d="{path}"/>{_values(series, places)}'
