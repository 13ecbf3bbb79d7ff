"""How much longer steps take while a checkpoint is written behind them, against one that is waited for.

    python benchmarks/checkpoint_stall.py [--rounds 5] [--hidden 1024] [--zero 2] [--folder DIR]

One process, no Ray: the engine, the writer and the loop of a run. Each round trains the same number of steps three
times: without a checkpoint, with one that the loop waits for, and with one behind it. The stall is what the last
takes longer than the first, over what the second does. Promised: at most 10%.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1] / "tests" / "support"))
os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", DS_ACCELERATOR="cpu", LOCAL_RANK="0")

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from fakes import LLAMA, make_recipe  # noqa: E402

from raysft.data.feed.collate import StepBatch, largest_micro_batch  # noqa: E402
from raysft.engine.choose import make_engine  # noqa: E402
from raysft.engine.protocol import Engine  # noqa: E402
from raysft.model.facts import read_facts  # noqa: E402
from raysft.model.fast.start_check import use_fast_paths  # noqa: E402
from raysft.model.load import load_model  # noqa: E402
from raysft.model.methods import apply_method  # noqa: E402
from raysft.objectives.module import ObjectiveModule, make_objective  # noqa: E402
from raysft.recipe.resolve import resolve  # noqa: E402
from raysft.train.commits.checkpoint import begin_attempt  # noqa: E402
from raysft.train.commits.writer import Retention, Writer  # noqa: E402
from raysft.train.group import TorchGroup  # noqa: E402
from raysft.train.loop import train  # noqa: E402
from raysft.train.state import TrainState  # noqa: E402

ROW_TOKENS, VOCAB = 64, 4096
PROMISED = 0.10


def make(hidden: int, zero: int) -> Engine:
    """A Llama of 4 layers, about 50 million parameters at a width of 1,024, trained in fp32."""
    config = LLAMA | {"hidden_size": hidden, "intermediate_size": 3 * hidden, "num_hidden_layers": 4}
    recipe = make_recipe(
        model={"config": config | {"tie_word_embeddings": True}},
        data={"max_tokens": ROW_TOKENS},
        train={"rows_per_step": 1, "micro_batch_rows": 1},
        parallel={"zero": zero},
        cluster={"workers": 1},
    )
    model = load_model(recipe, vocab_size=VOCAB)
    use_fast_paths(model, VOCAB, packing=True)
    module = ObjectiveModule(apply_method(model, recipe), make_objective(recipe))
    return make_engine(module, resolve(recipe, read_facts(recipe), None), torch.device("cpu"), None)


class Trainer:
    """One engine that goes on from step to step; each block saves, or does not, after its first step."""

    def __init__(self, engine: Engine, folder: str) -> None:
        self.engine, self.step, self.blocked_s = engine, 0, 0.0
        attempt, _ = begin_attempt(folder, TorchGroup(torch.device("cpu")))
        self.writer = Writer(folder, attempt, TorchGroup(torch.device("cpu")), retention=Retention(1), facts={})
        batch = largest_micro_batch(1, ROW_TOKENS)
        self.batch = StepBatch(
            micro_batches=(batch,), units={"nll": float(np.sum(batch.weights))}, cursor={}, flops=1.0
        )

    def block(self, steps: int, how: str) -> float:
        """Seconds of so many steps, `how` being plain, waited or behind; the writer is at rest before and after."""
        first, state, self.blocked_s = self.step + 1, TrainState(step=self.step), 0.0

        def save(state: TrainState) -> None:
            if how != "plain" and state.step == first:
                started = time.perf_counter()
                self.writer.save(self.engine, state)
                if how == "waited":
                    self.writer.finish()
                self.blocked_s = time.perf_counter() - started

        started = time.perf_counter()
        for self.step in range(first, first + steps):
            train(
                self.engine,
                lambda step: self.batch,
                [],
                state,
                total_steps=self.step,
                learning_rate=lambda step: 1e-4,
                save=save,
            )
            state = TrainState(step=self.step)
        taken = time.perf_counter() - started
        self.blocked_s += self.writer.held_s()
        self.writer.finish()
        return taken


def rounds(trainer: Trainer, count: int) -> Iterator[dict[str, float]]:
    """The seconds of each round, by what was done, and how long the loop stood still for the save behind it."""
    for how in ("plain", "behind"):  # memory is touched for the first time
        trainer.block(2, how)
    step_s = trainer.block(5, "plain") / 5
    trainer.block(1, "waited")
    steps = max(4, round(1.5 * trainer.blocked_s / step_s))  # what is written behind them is written before their end
    for _ in range(count):
        taken, stood = {}, {}
        for how in ("plain", "waited", "behind"):
            taken[how] = trainer.block(steps, how)
            stood[f"stood_{how}"] = trainer.blocked_s
        yield taken | stood | {"steps": steps}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--zero", type=int, default=2)
    parser.add_argument("--folder", help="where checkpoints go; a temporary one if not given")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=0, world_size=1)
        trainer = Trainer(make(options.hidden, options.zero), f"{folder}/run")
        found = []
        for taken in rounds(trainer, options.rounds):
            print("  ".join(f"{name} {value:.2f}" for name, value in taken.items()), flush=True)
            found.append(taken)
    waited, behind = (statistics.median(t[how] - t["plain"] for t in found) for how in ("waited", "behind"))
    whole, stood = (statistics.median(t[f"stood_{how}"] for t in found) for how in ("waited", "behind"))
    print(
        f"the loop stands {whole:.2f} s for a checkpoint that it waits for, {stood:.3f} s for one behind it: ", end=""
    )
    print(f"{stood / whole:.1%}; all in all the steps take {waited:.2f} and {behind:.2f} s longer: ", end="")
    print(f"{behind / waited:.1%}, promised {PROMISED:.0%} (on a machine that does nothing else)")
    sys.exit(behind > PROMISED * waited)


if __name__ == "__main__":
    main()
