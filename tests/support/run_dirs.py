"""Run directories as training leaves them, made in milliseconds without Ray, and the ways in which files go bad."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from fakes import FakeGroup, make_recipe, step_info
from torch import Tensor
from whole_state import Still, shared_out

from raysft.recipe.schema import Recipe
from raysft.run.evaluations import write_evaluation
from raysft.run.rundir import claim, write_result
from raysft.train.commits.checkpoint import begin_attempt
from raysft.train.commits.lineage import Attempt
from raysft.train.commits.writer import Retention, Writer
from raysft.train.history import incidents, skips, spans
from raysft.train.history.failures import describe_failure, write_failure
from raysft.train.history.records import Records, StartFacts
from raysft.train.state import TrainState

DATA = "0123456789abcdef"
LAST = 8
"""Steps of a run here: attempt 1 commits 2, 4, 6 and dies at 7; attempt 2 goes on from 6 and commits 8."""


def state_tensors(seed: int, step: int) -> dict[str, Tensor]:
    """What the run of this seed has after a step."""
    draw = torch.Generator().manual_seed(1000 * seed + step)
    names = ("weight:a.weight", "exp_avg:a.weight", "exp_avg_sq:a.weight")
    return {"adam_step": torch.tensor(float(step))} | {name: torch.randn(5, 3, generator=draw) for name in names}


def state_at(step: int) -> TrainState:
    return TrainState(step=step, tokens=100 * step, target_tokens=60.0 * step)


def recipe_of(storage: Path, name: str, seed: int) -> Recipe:
    return make_recipe(name=name, storage=str(storage), seed=seed, optimizer={"learning_rate": 0.1 + seed})


def make_run(storage: Path, name: str, seed: int) -> Path:
    """A finished run of two attempts."""
    recipe = recipe_of(storage, name, seed)
    run = storage / "runs" / name
    prints = claim(str(run), recipe, DATA)
    with spans.driving(str(run)) as driver:
        driver.phase("train", 1)
        _attempt(str(run), prints, seed, until=7, commits=(2, 4, 6))
        write_failure(str(run), describe_failure(RuntimeError("lost"), attempt=1, rank=1, step=7, certain=False))
        incidents.record(str(run), "worker", "a worker died", attempt=1, step=7, detected_after_s=0.5)
        skips.add_skip(str(run), skips.Skip(3, "loss 9 after a median of 1"))
        _attempt(str(run), prints, seed, until=LAST, commits=(8,))
    evaluation = {"held_out": {"metrics": {"loss": {"value": 1.5 + seed, "count": 9}}, "num_prompts": 0}}
    for when in ("before", "after"):
        write_evaluation(str(run), when, evaluation, prints)
    report = run / "report.html"
    report.write_text("<html></html>")
    result = {
        "steps": LAST,
        "before": {"sets": evaluation},
        "after": {"sets": evaluation},
        "exports": [],
        "report": str(report),
    }
    write_result(str(run), {**result, "finished_at": "2026-01-02T03:04:05+00:00"}, prints)
    return run


def _attempt(run: str, prints: dict[str, str], seed: int, *, until: int, commits: tuple[int, ...]) -> None:
    attempt, restored = begin_attempt(run, FakeGroup())
    start = restored.state.step if restored else 0
    records = [Records(run, attempt.number, rank) for rank in range(2)]
    worker = spans.WorkerSpans(run, attempt.number, is_writer=True)
    for record in records:
        record.start(StartFacts(start, 2, 0.5, 1e9, "guessed"))
    for step in range(start + 1, until + 1):
        for rank, record in enumerate(records):
            info = step_info(step, loss=seed + 1 / step, sample_ids=(10 * step + rank,))
            record.step(info)
        worker.until_now("compute", step)
        if step in commits:
            _commit(run, attempt, prints, seed, step)
    worker.close()


def _commit(run: str, attempt: Attempt, prints: dict[str, str], seed: int, step: int) -> None:
    writers = []
    for rank in range(2):
        keep = Retention(9)
        facts = {"fingerprints": prints}
        writer = Writer(run, attempt, FakeGroup(rank, 2), retention=keep, facts=facts, patience_s=9)
        engine = Still(partial(shared_out, state_tensors(seed, step), rank, 2))
        writer.save(engine, state_at(step), {"held_out/loss": 1.0})
        writers.append(writer)
    for writer in writers:
        writer.finish()


def files_of(directory: Path) -> list[str]:
    """Every file of a directory by its path inside, as a walk finds them."""
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


def _flip(file: Path, other: Path) -> None:
    data = bytearray(file.read_bytes())
    if data:
        data[random.Random(str(file)[-40:]).randrange(len(data))] ^= 1
    file.write_bytes(bytes(data))


def _replace_by_link(file: Path, other: Path) -> None:
    file.unlink()
    file.symlink_to(other)


def _replace_by_loop(file: Path, other: Path) -> None:
    file.unlink()
    file.symlink_to(file.name)


def _replace_by_directory(file: Path, other: Path) -> None:
    file.unlink()
    file.mkdir()


DAMAGES: dict[str, Callable[[Path, Path], object]] = {
    "cut": lambda file, other: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "emptied": lambda file, other: file.write_bytes(b""),
    "flipped": _flip,
    "deleted": lambda file, other: file.unlink(),
    "another run's": lambda file, other: shutil.copy(other, file),
    "another's, by a link": _replace_by_link,
    "a link to itself": _replace_by_loop,
    "a directory": _replace_by_directory,
    "of another kind": lambda file, other: file.write_text('[1, {"number": "x", "kind": 3, "step": []}]\n'),
    "of nobody": lambda file, other: file.write_text("{}\n{}\n"),
}
"""What becomes of a file; `other`: the file of the same name in another run."""
