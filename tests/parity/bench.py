"""What all parity tests share: processes, material, and the curve that every split must follow."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from material import CONFIG, make_samples, make_store, make_tokenizer, recipe_fields
from processes import EngineProcesses
from reference import fresh_model
from transformers import PreTrainedTokenizerFast

TOLERANCE = 1e-5


def cells(*all_of_them: Any, often: tuple[Any, ...]) -> list[Any]:
    """Parameters of a test; all but `often` only in `make parity-full`."""
    assert set(often) <= set(all_of_them)
    return [
        cell
        if cell in often
        else pytest.param(*(cell if isinstance(cell, tuple) else (cell,)), marks=pytest.mark.full)
        for cell in all_of_them
    ]


LORA = {
    "method__kind": "lora",
    "method__rank": 4,
    "method__alpha": 8.0,
    "method__target_modules": ["q_proj", "v_proj"],
}


@dataclass
class Bench:
    """Processes (started when first asked for) and material of all cells of the session."""

    directory: Path
    tokenizer: PreTrainedTokenizerFast
    store: str
    base: dict[str, Any] = field(default_factory=dict)
    """Result of 1 worker, ZeRO 0, micro-batch 1."""
    groups: dict[int, EngineProcesses] = field(default_factory=dict)

    @staticmethod
    def make(directory: Path) -> Bench:
        tokenizer = make_tokenizer(directory / "tokenizer")
        fresh_model(CONFIG, len(tokenizer), seed=0).save_pretrained(directory / "base")
        return Bench(directory, tokenizer, make_store(directory, tokenizer, make_samples()))

    def cell(self, workers: int = 1, **extra: Any) -> list[dict[str, Any]]:
        """The answer of each rank. `section__field`: of the recipe; the others are of the cell.

        The model is the one that references begin with, made by transformers alone, unless a cell names another.
        """
        if not {"model__source", "model__config"} & extra.keys():
            extra |= {"model__source": str(self.directory / "base"), "model__config": None}
        plain = {key: extra.pop(key) for key in list(extra) if "__" not in key}
        fields = recipe_fields(str(self.directory / "tokenizer"), cluster__workers=workers, **extra)
        return self.run(workers, {"recipe": fields, "store": self.store, **plain})

    def run(self, workers: int, cell: dict[str, Any], timeout_s: float = 300) -> list[dict[str, Any]]:
        """The answer of each rank to a cell as its process reads it."""
        if workers not in self.groups:
            self.groups[workers] = EngineProcesses(workers, self.directory)
        return self.groups[workers].run(cell, timeout_s)

    def close(self) -> None:
        for group in self.groups.values():
            group.close()


def furthest(ours: list[float], theirs: list[float]) -> float:
    """Largest relative difference."""
    assert len(ours) == len(theirs) > 0
    return max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True))


Curve = tuple[list[float], list[float]]
"""(losses, gradient norms) of each step."""


def follows(found: dict[str, Any], curve: Curve) -> None:
    """Is a cell's curve that one?"""
    losses, norms = curve
    assert furthest(found["losses"], losses) < TOLERANCE
    assert furthest(found["norms"], norms) < TOLERANCE


def resumes(
    bench: Bench, run: Path, whole: dict[str, Any], steps: tuple[int, int, int], cell: dict[str, Any]
) -> None:
    """Is a cell that commits at a step and goes on from there the whole one, to the bit? steps: (workers, that step,
    the last)."""
    workers, first, last = steps
    before = bench.cell(workers, until=first, save=True, run=str(run), **cell)[0]
    after = bench.cell(workers, until=last, run=str(run), **cell)[0]
    assert before["losses"] + after["losses"] == whole["losses"]
    assert after["weights"] == whole["weights"]


def nears(bench: Bench, run: Path, curve: Curve, cell: dict[str, Any]) -> None:
    """Is a cell in bf16 over two workers near this curve of fp32, six steps long, and does it resume to the bit?"""
    cell = {**cell, "train__precision": "bf16"}
    found = bench.cell(2, until=6, **cell)[0]
    losses, norms = curve
    assert furthest(found["losses"], losses) < 1e-2
    assert furthest(found["norms"], norms) < 5e-2
    resumes(bench, run, found, (2, 3, 6), cell)
