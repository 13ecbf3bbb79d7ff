"""Every searcher with every scheduler on given learning curves: how far from the best, after how many tokens.

Nothing is trained: the real Sweep proposes, judges and stops; a trial's losses come from curves. Without a file they
are made: a power law whose floor depends on log learning rate (a parabola, with divergence beyond), rank and batch
size, with noise at each report. With CURVES.json ([{"point": {field: value}, "curve": [[step, loss], ...]}, ...], a
stored grid), a proposal gets the curve of the nearest stored point.

    .venv/bin/python benchmarks/tune_replay.py [CURVES.json] [--trials 48] [--seeds 5]
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))
from replay import Curve, Player, open_sweep, search_recipe

from raysft.search.space import Point
from raysft.search.study import Study

STEPS, EVERY = 30, 2
SPACE: dict[str, Any] = {
    "optimizer.learning_rate": {"distribution": "loguniform", "low": 1e-4, "high": 3e-2, "points": 4},
    "method.rank": {"distribution": "int", "low": 4, "high": 32, "log": True},
    "train.rows_per_step": {"distribution": "int", "low": 2, "high": 8, "log": True},
}
GRID = SPACE | {
    "method.rank": {"distribution": "choice", "values": [4, 8, 16, 32]},
    "train.rows_per_step": {"distribution": "choice", "values": [2, 4, 8]},
}
RUNGS = {"min_steps": 6, "reduction": 2}
"""Trials are judged after a fifth of their steps. Earlier, the losses of small and large batches have not crossed."""
TOKENS_PER_ROW = 256


def made(point: Point) -> Curve:
    """The synthetic curve of a point; the noise is the point's own."""
    rate, rank, rows = (
        math.log10(point["optimizer.learning_rate"]),
        point["method.rank"],
        point["train.rows_per_step"],
    )
    draw = random.Random(f"{rate:.6f}/{rank}/{rows}")
    off = rate + 2.3 + 0.15 * math.log2(rank / 16) - 0.2 * math.log2(rows / 4)
    floor = 3.0 + 0.35 * off**2 + 0.8 * max(0.0, off - 0.5) ** 2 + 0.03 * abs(math.log2(rank / 16))
    floor -= 0.06 * math.log2(rows)
    pace = 0.55 + 0.05 * math.log2(rows)
    return [
        (step, floor + 4.0 * (step + 1) ** -pace + draw.gauss(0, 0.01)) for step in range(EVERY, STEPS + 1, EVERY)
    ]


def stored(file: str) -> Callable[[Point], Curve]:
    """The curve of the nearest stored point, in the logarithms of the fields."""
    entries = json.loads(Path(file).read_text())

    def nearest(point: Point) -> Curve:
        def far(other: Point) -> float:
            return sum((math.log(point[name]) - math.log(other[name])) ** 2 for name in SPACE)

        return [(step, loss) for step, loss in min(entries, key=lambda entry: far(entry["point"]))["curve"]]

    return nearest


def play(
    curve: Callable[[Point], Curve], searcher: str, scheduler: dict[str, Any], trials: int, seed: int
) -> tuple[Study, int]:
    """(study, steps trained)."""
    more = {"searcher": searcher, "scheduler": scheduler, "budget": {"trials": trials}}
    recipe = search_recipe(GRID if searcher == "grid" else SPACE, seed=seed, every=EVERY, **more)
    sweep, study = open_sweep(recipe)
    player = Player(curve)
    player.play(sweep)
    return study, player.steps


def tokens(study: Study) -> float:
    """Trained, over all trials."""
    return sum(t.curve[-1][0] * t.point["train.rows_per_step"] * TOKENS_PER_ROW for t in study.trials() if t.curve)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("curves", nargs="?")
    parser.add_argument("--trials", type=int, default=48)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    curve = stored(options.curves) if options.curves else made
    whole, grid_steps = play(curve, "grid", {"kind": "none"}, 10_000, 0)
    best = min(trial.values[0] for trial in whole.trials() if trial.values)
    print(f"grid of {len(whole.trials())}: best {best:.4f}, {grid_steps} steps, {tokens(whole) / 1e6:.2f} M tokens\n")
    print("searcher  scheduler  regret: median, worst   steps / grid's   tokens / grid's   trials to within 0.5%")
    for searcher in ("random", "qmc", "tpe", "gp", "cmaes", "nsga2"):
        for scheduler in ("none", "median", "asha", "hyperband"):
            regrets, steps, spent, needed = [], [], [], []
            for seed in range(options.seeds):
                study, count = play(curve, searcher, {"kind": scheduler, **RUNGS}, options.trials, seed)
                ended = [(t.number, t.values[0]) for t in study.trials() if t.state == "finished" and t.values]
                regrets.append(min(value for _, value in ended) / best - 1)
                steps.append(count / grid_steps)
                spent.append(tokens(study) / tokens(whole))
                needed.append(next((number + 1 for number, value in ended if value <= 1.005 * best), math.inf))
            print(
                f"{searcher:9} {scheduler:9}  {statistics.median(regrets):+7.2%} {max(regrets):+7.2%}"
                f"          {statistics.median(steps):6.2f}           {statistics.median(spent):6.2f}"
                f"            {statistics.median(needed):g}",
                flush=True,
            )


if __name__ == "__main__":
    main()
