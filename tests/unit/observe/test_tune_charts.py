"""The charts of a search: what is drawn where, against numbers read back from the SVG."""

from __future__ import annotations

import re

import pytest

from raysft.observe.tune_charts import HEIGHT, WIDTH, cost_bars, curves, front, history, parallel, png


def paths(svg: str, style: str) -> list[list[tuple[float, float]]]:
    """Points of each path of a style."""
    found = re.findall(rf'<path class="{style}" d="M([^"]+)"', svg)
    return [[tuple(map(float, point.split())) for point in path.split("L")] for path in found]  # type: ignore[misc]


@pytest.mark.parametrize("less_is_better", [True, False])
def test_the_best_so_far_never_gets_worse(less_is_better: bool) -> None:
    values = [(0, 3.0), (1, 4.0), (2, 1.0), (3, 2.0), (5, 0.5)]
    (line,) = paths(history(values, [(4, 9.0)], "loss", less_is_better=less_is_better), "smooth")
    steps = sorted({y for _, y in line}, reverse=not less_is_better)  # from the first to the best
    heights = [y for _, y in line]
    assert heights == sorted(heights, reverse=not less_is_better), "on the page down is less"
    assert len(steps) == (3 if less_is_better else 2)


def test_pruned_trials_are_paler_and_every_trial_is_drawn() -> None:
    svg = history([(0, 3.0), (2, 1.0)], [(1, 2.0), (3, 5.0)], "loss", less_is_better=True)
    assert sorted(re.findall(r'<g class="(\w+)">', svg)) == ["dots", "dots", "pruned", "pruned"]
    assert {f"trial {number}" for number in range(4)} <= set(re.findall(r"trial \d+", svg))


def test_the_best_curves_stand_out_and_lie_on_top() -> None:
    trials = {n: [(1, 1.0 + n), (2, 0.5 + n)] for n in range(4)}
    svg = curves(trials, [1], "loss")
    assert (len(paths(svg, "raw")), len(paths(svg, "smooth"))) == (3, 1)
    assert svg.rindex('class="smooth"') > svg.rindex('class="raw"')


def test_the_front_goes_through_the_best_from_left_to_right() -> None:
    points = {0: (1.0, 10.0), 1: (2.0, 30.0), 2: (3.0, 20.0), 3: (0.5, 5.0)}  # (upwards, to the right)
    svg = front(points, [1, 0, 3], ("loss", "tokens_per_s"))
    (line,) = paths(svg, "smooth")
    assert len(line) == 3
    assert [x for x, _ in line] == sorted(x for x, _ in line)
    assert re.findall(r'<g class="(\w+)">', svg) == ["dots"] * 4


def test_bars_are_as_long_as_what_trials_cost() -> None:
    svg = cost_bars([(3, 10.0), (4, 20.0), (7, 5.0)])
    heights = [float(height) for height in re.findall(r'<rect[^>]* height="([\d.]+)"', svg)]
    assert [height / heights[1] for height in heights] == pytest.approx([0.5, 1.0, 0.25], abs=0.01)
    assert "trial 7: 5.0 core-seconds" in svg


def test_parallel_coordinates_by_word_number_and_order_of_magnitude() -> None:
    rows = [
        (0, {"method.kind": "full", "optimizer.learning_rate": 1e-5, "seed": 1}),
        (1, {"method.kind": "lora", "optimizer.learning_rate": 1e-3, "seed": 2, "method.rank": 8}),
        (2, {"method.kind": "lora", "optimizer.learning_rate": 1e-1, "seed": 3}),
    ]
    axes = ("method.kind", "optimizer.learning_rate", "seed", "method.rank")
    svg = parallel(rows, axes, [2])
    pale, (best,) = paths(svg, "graded"), paths(svg, "smooth")
    top, bottom = 40.0, HEIGHT - 20.0
    assert [y for _, y in pale[0]] == pytest.approx([bottom - 0.25 * (bottom - top), bottom, bottom], abs=0.1)
    assert [y for _, y in best] == pytest.approx([bottom - 0.75 * (bottom - top), top, top], abs=0.1)
    middle = (top + bottom) / 2  # 1e-3 between 1e-5 and 1e-1, 2 between 1 and 3, the only rank
    assert [y for _, y in pale[1]][1:] == pytest.approx([middle] * 3, abs=0.1)
    assert (len(pale[0]), len(pale[1])) == (3, 4), "a trial without a field leaves its axis out"
    assert all(70 <= x <= WIDTH - 70 for path in (*pale, best) for x, _ in path)


def test_lines_are_the_stronger_the_better_their_value_ranks() -> None:
    rows = [(n, {"seed": n, "loss": value}) for n, value in enumerate((3.0, 1.0, 2.0, 0.5))]
    for less, order in ((True, [0, 2, 1]), (False, [3, 1, 2])):
        svg = parallel(rows, ("seed", "loss"), [3 if less else 0], less_is_better=less)
        inks = {int(n): float(ink) for ink, n in re.findall(r'opacity="([0-9.]+)"><title>trial (\d+)', svg)}
        assert sorted(inks, key=inks.__getitem__) == order


def test_failed_trials_stand_at_the_worst_value() -> None:
    svg = history([(0, 3.0), (2, 1.0)], [(1, 2.0)], "loss", less_is_better=True, failed=[3])
    heights = re.findall(r'<g class="(\w+)">.*?cy="([0-9.]+)"', svg)
    assert [y for style, y in heights if style == "failed"] == [heights[1][1]], "as high as trial 0"


def test_names_of_the_data_are_escaped() -> None:
    svg = parallel([(0, {"data.<b>": '"<i>'}), (1, {"data.<b>": "x"})], ("data.<b>",), [])
    assert "<b>" not in svg
    assert "<i>" not in svg
    assert "&lt;i&gt;" in svg


def test_a_picture_is_a_png_twice_as_wide() -> None:
    picture = png(cost_bars([(0, 1.0), (1, 2.0)]))
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(picture[16:20], "big") == 2 * WIDTH
