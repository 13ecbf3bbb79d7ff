"""`make bench-grid DATA=gsm8k_train.jsonl BASE=alpaca.json`: ASHA + TPE against a whole grid.

    python benchmarks/tune_grid.py gsm8k_train.jsonl alpaca.json [--folder build/bench-grid] [--seeds 20]
                                         [--trials 48]

A small Llama is trained on BASE for some hundred steps, so that LoRA has a base and something to learn. `raysft
tune` then runs the grid (learning rate x rank x rows a step, 48 points of 30 steps) once and stores its curves
(curves.json, also for `make bench-tune`). ASHA + TPE is replayed on these curves, with the nearest grid point's for
every proposal, for SEEDS seeds; and once live, over the continuous space. Costs: tokens trained in the replays; in
the live run tokens, and core-seconds of all trials, their starts included, until the best of the grid was reached
within 0.5%. What is done is not done again: the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", RAY_USAGE_STATS_ENABLED="0")
HERE = Path(__file__).resolve()
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1] / "tests" / "support")]

import ray  # noqa: E402
import yaml  # noqa: E402
from tune_replay import EVERY, GRID, RUNGS, SPACE, STEPS, TOKENS_PER_ROW, play, stored  # noqa: E402

from raysft.data.text.tokenizer import train_tokenizer  # noqa: E402
from raysft.recipe.load import parse_recipe  # noqa: E402
from raysft.recipe.schema import Recipe  # noqa: E402
from raysft.run.run import run_training  # noqa: E402
from raysft.search.command import open_study, search  # noqa: E402
from raysft.search.study import Trial  # noqa: E402
from raysft.search.sweep import spent_of  # noqa: E402

NEAR = 1.005
ASHA = {"kind": "asha", **RUNGS}


def fields(folder: Path, data: Path, **changes: Any) -> dict[str, Any]:
    """The example recipe of a search, with a smaller vocabulary."""
    found: dict[str, Any] = yaml.safe_load((HERE.parents[1] / "jobs" / "recipes" / "tune.yaml").read_text())
    del found["tune"]
    found["storage"] = str(folder / "storage")
    found["model"]["tokenizer"] = str(folder / "tokenizer")
    found["data"]["train"] = str(data)
    return found | changes


def base_recipe(folder: Path, data: Path) -> Recipe:
    train = {"max_steps": 300, "rows_per_step": 8, "micro_batch_rows": 4, "precision": "fp32"}
    more: dict[str, Any] = {"method": {"kind": "full"}, "optimizer": {"learning_rate": 2e-3, "warmup_steps": 20}}
    found = fields(folder, data, name="base", train=train, evaluate={"max_rows": 8}, **more)
    del found["data"]["columns"]  # of GSM8K
    return parse_recipe(found)


def search_recipe(folder: Path, data: Path, name: str, **tune: Any) -> Recipe:
    train = {"max_steps": STEPS, "micro_batch_rows": 2, "precision": "fp32"}
    evaluate = {"every_steps": EVERY, "max_rows": 8}
    found = fields(folder, data, name=name, train=train, evaluate=evaluate, checkpoint={"every_steps": STEPS})
    found["model"] = {"source": "run://base", "tokenizer": str(folder / "tokenizer")}
    return parse_recipe(found | {"tune": {"concurrent": 2, **tune}})


def trials_of(recipe: Recipe) -> list[Trial]:
    assert recipe.tune is not None
    return [trial for trial in open_study(recipe, recipe.tune).trials() if trial.is_own]


def core_s(trials: list[Trial]) -> float:
    return sum(spent_of(trial).core_s for trial in trials)


def until_near(trials: list[Trial], best: float) -> list[Trial] | None:
    """The trials up to the first that ended near the best of the grid; None: there was none."""
    for i, trial in enumerate(trials):
        if trial.state == "finished" and trial.values and trial.values[0] <= NEAR * best:
            return trials[: i + 1]
    return None


def tokens(trials: list[Trial]) -> float:
    return sum(t.curve[-1][0] * t.point["train.rows_per_step"] * TOKENS_PER_ROW for t in trials if t.curve)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("base", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("build/bench-grid"))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--trials", type=int, default=48)
    options = parser.parse_args()
    folder, data = options.folder.absolute(), options.data.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "tokenizer").exists():
        columns = {"instruction": "question", "output": "answer"}
        train_tokenizer(
            [str(data)], columns=columns, vocab_size=4000, template="chatml", out=str(folder / "tokenizer")
        )
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    run_training(base_recipe(folder, options.base.absolute()))
    grid_recipe = search_recipe(folder, data, "grid", space=GRID, searcher="grid", scheduler="none")
    search(grid_recipe)
    grid = trials_of(grid_recipe)
    curves = folder / "curves.json"
    curves.write_text(json.dumps([{"point": trial.point, "curve": trial.curve} for trial in grid]))
    best = min(trial.values[0] for trial in grid if trial.values)
    spread = sorted(trial.values[0] for trial in grid if trial.values)
    print(f"grid of {len(grid)}: best {best:.4f}, median {spread[len(spread) // 2]:.4f}, worst {spread[-1]:.4f};")
    print(f"  {core_s(grid):.0f} core-seconds, {tokens(grid) / 1e6:.2f} M tokens\n", flush=True)
    print("ASHA + TPE on the stored curves, tokens until within 0.5% of the grid's best / the grid's:")
    for seed in range(options.seeds):
        study, _ = play(stored(str(curves)), "tpe", ASHA, options.trials, seed)
        trials = study.trials()
        needed = until_near(trials, best)
        share = tokens(needed) / tokens(grid) if needed else math.inf
        print(f"  seed {seed}: {share:.2f}, {len(needed or trials)} trials", flush=True)
    live_recipe = search_recipe(
        folder, data, "live", space=SPACE, searcher="tpe", scheduler=ASHA, budget={"trials": options.trials // 2}
    )
    search(live_recipe)
    live = trials_of(live_recipe)
    found = min(trial.values[0] for trial in live if trial.values)
    needed = until_near(live, best)
    print(
        f"\nlive, {len(live)} trials: best {found:.4f} ({found / best - 1:+.2%}); over the grid's, until within 0.5%"
    )
    print(f"  ({len(needed) if needed else 'never'} trials) and in all:")
    for name, cost in (("core-seconds", core_s), ("tokens", tokens)):
        until = cost(needed) / cost(grid) if needed else math.inf
        print(f"  {name}: {until:.2f}, {cost(live) / cost(grid):.2f}")
    ray.shutdown()


if __name__ == "__main__":
    main()
