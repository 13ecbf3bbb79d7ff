"""Trials through the ordinary worker: each in a process's own engine, or all as threads of one process. No Ray."""

from __future__ import annotations

import threading
from dataclasses import asdict
from typing import Any

import torch
from whole_state import tensors_of

from raysft.model.facts import read_facts
from raysft.model.fast import shared_base
from raysft.recipe.load import parse_recipe
from raysft.recipe.resolve import resolve
from raysft.train.commits.checkpoint import find_latest
from raysft.train.group import TorchGroup
from raysft.train.history.records import read_ledger, read_metrics
from raysft.train.shared_trials import SharedTrials
from raysft.train.worker import train_worker
from raysft.train.worker_input import AttemptInput

GIVEN = shared_base._given
CPU = torch.device("cpu")


def run_cell(cell: dict[str, Any]) -> dict[str, Any]:
    """cell: store; trials [{recipe, run, steps, pause}]; slots: lists of trials that follow each other in a place of
    the process (absent: each alone)."""
    shared_base._given = neighbours_rows if cell.get("mutant") == "neighbours" else GIVEN
    wires = [wire_of(trial, cell["store"]) for trial in cell["trials"]]
    outcomes: list[dict[str, Any]] = [{}] * len(wires)
    passes = 0
    if "slots" in cell:
        trials = SharedTrials(CPU)

        def work(slot: list[int]) -> None:
            for number in slot:
                with trials.member(number):
                    try:
                        outcomes[number] = trials.train(number, wires[number])
                    except Exception as error:
                        outcomes[number] = {"status": "raised", "error": f"{type(error).__name__}: {error}"}

        threads = [threading.Thread(target=work, args=(slot,)) for slot in cell["slots"]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
            assert not thread.is_alive()
        passes = trials._rendezvous.num_passes
    else:
        outcomes = [train_worker(wire) for wire in wires]
    return {
        "passes": passes,
        "trials": [seen(outcome, wire["run"]) for outcome, wire in zip(outcomes, wires, strict=True)],
    }


def seen(outcome: dict[str, Any], run: str) -> dict[str, Any]:
    lines = read_metrics(run)
    steps = [line for line in lines if line["kind"] == "step"]
    latest = find_latest(run, TorchGroup(CPU))
    return {
        "outcome": outcome,
        "losses": [line["loss"] for line in steps],
        "norms": [line["grad_norm"] for line in steps],
        "skipped": [line["step"] for line in steps if line["skipped"]],
        "held_out": [line["loss"] for line in lines if line["kind"] == "eval"],
        "samples": list(read_ledger(run).values()),
        "weights": {} if latest is None else {k: v.double().norm().item() for k, v in tensors_of(latest).items()},
    }


def wire_of(trial: dict[str, Any], store: str) -> dict[str, Any]:
    recipe = parse_recipe(trial["recipe"])
    resolved = resolve(recipe, read_facts(recipe), None)
    return asdict(
        AttemptInput(
            recipe=trial["recipe"],
            run=trial["run"],
            tokenizer=str(recipe.model.tokenizer),
            train_store=store,
            eval_stores={"held_out": store},
            num_replicas=1,
            sync=resolved.sync,
            token_flops=resolved.token_flops,
            square_flops=resolved.square_flops,
            total_steps=trial["steps"],
            steps_per_epoch=None,
            fingerprints={},
            stream_cpus=0,
            memory_plan="",
            profile_steps=0,
            pause_step=trial.get("pause"),
        )
    )


def neighbours_rows(flat: torch.Tensor, part: Any) -> torch.Tensor:
    """The mutant: an adapter reads the rows of the trial before."""
    return GIVEN(flat.roll(part.stop - part.start, 0), part)
