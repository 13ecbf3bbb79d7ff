"""The charts of a search: history, parallel coordinates, learning curves, Pareto front, cost. SVG, and PNG of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import resvg_py

from raysft.observe.charts import Series, histogram, line_chart

WIDTH, HEIGHT = 1040, 340

STYLE = """
text { font-family: DejaVu Sans, Arial, sans-serif; font-size: 12px; fill: #626b7a; }
path, polyline { fill: none; } .grid { stroke: #e9ecf1; } circle { fill: #c2540a; } .bar { fill: #2456c8; }
.raw { stroke: #a9bdec; stroke-width: 1; } .smooth { stroke: #2456c8; stroke-width: 2.2; }
.plain { stroke: #2456c8; stroke-width: 1.6; } .look { fill: none; }
.pruned circle, circle.raw { fill: #a9bdec; } .graded { stroke: #2456c8; stroke-width: 1.2; }
.failed circle { fill: #ffffff; stroke: #b3261e; stroke-width: 1.8; } circle.smooth { fill: #2456c8; }
"""
"""Colours of a picture that stands alone; on a page its style sheet counts."""


def png(svg: str) -> bytes:
    """A chart as a picture, twice as large as drawn."""
    # the page's own SVG needs no namespace; a file does
    standing = svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    return bytes(resvg_py.svg_to_bytes(svg_string=standing, style_sheet=STYLE, background="#ffffff", width=2 * WIDTH))


def history(
    values: Sequence[tuple[int, float]],
    pruned: Sequence[tuple[int, float]],
    label: str,
    *,
    less_is_better: bool,
    failed: Sequence[int] = (),
) -> str:
    """Finished trials (number, value) as dots, the best so far as a line; pruned ones as pale dots at their last;
    failed ones by number, as rings at the worst value that there is."""
    better: Callable[[float, float], float] = min if less_is_better else max
    best: list[tuple[float, float]] = []
    for number, value in values:
        best += [(number, best[-1][1]), (number, better(best[-1][1], value))] if best else [(number, value)]
    dots = [Series(f"trial {number}", [(number, value)], "pruned") for number, value in pruned]
    dots += [Series(f"trial {number}", [(number, value)], "dots") for number, value in values]
    measured = [value for _, value in (*values, *pruned)]
    worst = (max if less_is_better else min)(measured, default=0.0)
    dots += [Series(f"trial {number} failed, drawn", [(number, worst)], "failed") for number in failed]
    return line_chart(
        [Series("best so far", best, "smooth"), *dots], x_label="trial", y_label=label, width=WIDTH, height=HEIGHT
    )


def curves(trials: Mapping[int, Sequence[tuple[int, float]]], best: Sequence[int], label: str) -> str:
    """All learning curves; those of the best trials stand out."""
    order = sorted(trials, key=lambda number: number in best)
    series = [Series(f"trial {n}", trials[n], "smooth" if n in best else "raw") for n in order]
    return line_chart(series, x_label="step", y_label=label, width=WIDTH, height=HEIGHT)


def front(points: Mapping[int, tuple[float, float]], best: Sequence[int], labels: tuple[str, str]) -> str:
    """Two metrics against each other (first upwards), the Pareto front as a line."""
    dots = [Series(f"trial {number}", [(x, y)], "dots") for number, (y, x) in points.items()]
    line = sorted((x, y) for number, (y, x) in points.items() if number in best)
    return line_chart(
        [Series("Pareto front", line, "smooth"), *dots],
        x_label=labels[1],
        y_label=labels[0],
        width=WIDTH,
        height=HEIGHT,
    )


def cost_bars(seconds: Sequence[tuple[int, float]]) -> str:
    """A bar for the core-seconds of each trial."""
    every = max(1, len(seconds) // 16)
    return histogram(
        [value for _, value in seconds],
        [(index + 0.5, str(seconds[index][0])) for index in range(0, len(seconds), every)],
        x_label="trial",
        y_label="core-seconds",
        width=WIDTH,
        height=HEIGHT,
        titles=[f"trial {number}: {value:.1f} core-seconds" for number, value in seconds],
    )


def parallel(
    rows: Sequence[tuple[int, Mapping[str, Any]]],
    axes: Sequence[str],
    best: Sequence[int],
    *,
    less_is_better: bool = True,
) -> str:
    """Parallel coordinates: an upright axis for each field, and a line for each trial, where it has the field.

    A line is the stronger, the better its value on the last axis ranks.
    """
    strength = _strengths({number: row[axes[-1]] for number, row in rows if axes[-1] in row}, less_is_better)
    left, right, top, bottom = 70.0, WIDTH - 70.0, 40.0, HEIGHT - 20.0
    gap = (right - left) / max(1, len(axes) - 1)
    body, texts, place = [], [], {}
    for index, axis in enumerate(axes):
        x = left + index * gap
        found = [row[axis] for _, row in rows if axis in row]
        place[axis], ticks = _axis(found)
        body.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top:g}" y2="{bottom:g}"/>')
        name = escape(axis.rpartition(".")[2])
        texts.append(f'<text class="name" x="{x:.1f}" y="{top - 20:g}" text-anchor="middle">{name}</text>')
        for share, text in ticks:
            y = bottom - share * (bottom - top)
            texts.append(f'<text class="tick" x="{x + 5:.1f}" y="{y + 4:.1f}">{escape(text)}</text>')
    for number, row in sorted(rows, key=lambda entry: entry[0] in best):
        points = [
            f"{left + index * gap:.1f} {bottom - place[axis](row[axis]) * (bottom - top):.1f}"
            for index, axis in enumerate(axes)
            if axis in row
        ]
        style = "smooth" if number in best else "graded"
        told = f"{number}: {row[axes[-1]]:.4g}" if isinstance(row.get(axes[-1]), float) else str(number)
        ink = "" if number in best else f' opacity="{strength.get(number, 0.15):.2f}"'
        body.append(f'<path class="{style}" d="M{"L".join(points)}"{ink}><title>trial {told}</title></path>')
    label = f'role="img" aria-label="parallel coordinates of {len(rows)} trials"'
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" {label}>{"".join(body + texts)}</svg>'


def _strengths(values: Mapping[int, Any], less_is_better: bool) -> dict[int, float]:
    """{trial: 0.15 for the worst value, to 0.9 for the best}, by rank."""
    order = sorted(values, key=lambda number: values[number], reverse=less_is_better)
    return {number: 0.15 + 0.75 * rank / max(1, len(order) - 1) for rank, number in enumerate(order)}


def _axis(values: Sequence[Any]) -> tuple[Callable[[Any], float], list[tuple[float, str]]]:
    """(value -> place from 0 to 1, ticks) of one axis: words in turn, numbers to scale, wide ranges by logarithm."""
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        names = list(dict.fromkeys(map(str, values)))
        places = {name: (i + 0.5) / len(names) for i, name in enumerate(names)}
        return lambda value: places[str(value)], [(places[name], name) for name in names]
    low, high = min(values, default=0.0), max(values, default=1.0)
    if not high > low:
        return lambda value: 0.5, [(0.5, f"{low:.3g}")]
    if low > 0 and high / low >= 20:
        span = math.log(high / low)
        middle = math.sqrt(low * high)
        return lambda value: math.log(value / low) / span, [
            (0.0, f"{low:.2g}"),
            (0.5, f"{middle:.2g}"),
            (1.0, f"{high:.2g}"),
        ]
    ends = ((0.0, low), (0.5, (low + high) / 2), (1.0, high))
    return lambda value: (value - low) / (high - low), [(share, f"{end:.3g}") for share, end in ends]
