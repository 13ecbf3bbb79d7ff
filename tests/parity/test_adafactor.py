"""Adafactor over every split of data, against torch's own in one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from bench import LORA, TOLERANCE, Bench, Curve, cells, follows, furthest, nears, resumes
from material import CONFIG, make_samples
from peft import LoraConfig, get_peft_model
from reference import fresh_model, mean_loss, tokens_and_targets
from torch import nn

UNTIL = 6
RATE, DECAY, CLIP = 0.05, 0.1, 1.5
ADAFACTOR = {"optimizer__kind": "adafactor", "optimizer__learning_rate": RATE, "optimizer__clip_threshold": CLIP}

SPLITS: dict[str, tuple[int, dict[str, Any]]] = {
    "ZeRO 0": (1, {}),
    "ZeRO 0, two": (2, {}),
    "ZeRO 1": (2, {"parallel__zero": 1}),
    "ZeRO 2, micro-batch 4": (2, {"parallel__zero": 2, "train__micro_batch_rows": 4}),
    "ZeRO 3": (2, {"parallel__zero": 3}),
    "ZeRO 3, three": (3, {"parallel__zero": 3, "train__rows_per_step": 9}),
    "sequence": (2, {"parallel__sequence": 2, "parallel__zero": 2}),
}


def by_torch(bench: Bench, model: nn.Module, steps: list[Any]) -> Curve:
    """(losses, gradient norms)."""
    samples = [tokens_and_targets(bench.tokenizer, q, a) for q, a in make_samples()]
    trained = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": DECAY},
        {"params": [p for p in trained if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.Adafactor([group for group in groups if group["params"]], lr=RATE, d=CLIP)
    losses, norms = [], []
    for members in steps:
        loss = mean_loss(model, samples, members)
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(nn.utils.clip_grad_norm_(trained, 1.0)))
        optimizer.step()
        losses.append(loss.item())
    return losses, norms


@pytest.fixture(scope="module")
def alone(bench: Bench) -> Curve:
    return by_torch(bench, fresh_model(CONFIG, len(bench.tokenizer), seed=0), bench.base["samples"][:UNTIL])


@pytest.mark.parametrize("split", cells(*SPLITS, often=("ZeRO 2, micro-batch 4", "ZeRO 3")))
def test_every_split_moves_as_torch_does(bench: Bench, alone: Curve, split: str, tmp_path: Path) -> None:
    """And resumes to the same bits in mid-run."""
    workers, changes = SPLITS[split]
    cell = {**ADAFACTOR, **changes}
    ranks = bench.cell(workers, until=UNTIL, **cell)
    found, curve = ranks[0], alone
    if workers == 3:  # other rows in a step
        steps = [[member for rank in ranks for member in rank["samples"][step]] for step in range(UNTIL)]
        curve = by_torch(bench, fresh_model(CONFIG, len(bench.tokenizer), seed=0), steps)
    follows(found, curve)
    resumes(bench, tmp_path, found, (workers, 3, UNTIL), cell)


@pytest.mark.full
def test_a_commit_goes_on_under_another_split(bench: Bench, alone: Curve, tmp_path: Path) -> None:
    """Rows and columns are whole in it, whatever the ranks held."""
    bench.cell(1, until=3, save=True, run=str(tmp_path), **ADAFACTOR)
    after = bench.cell(2, until=UNTIL, run=str(tmp_path), **ADAFACTOR, parallel__zero=3)[0]
    assert furthest(after["losses"], alone[0][3:]) < TOLERANCE


@pytest.mark.full
@pytest.mark.parametrize("zero", [0, 3])
def test_adapters(bench: Bench, zero: int) -> None:
    config = LoraConfig(r=4, lora_alpha=8.0, target_modules=["q_proj", "v_proj"])
    model = fresh_model(CONFIG, len(bench.tokenizer), seed=0)
    torch.manual_seed(0)
    curve = by_torch(bench, get_peft_model(model, config), bench.base["samples"][:UNTIL])
    found = bench.cell(2, until=UNTIL, **ADAFACTOR, **LORA, parallel__zero=zero)[0]
    follows(found, curve)


@pytest.mark.full
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_in_bf16(bench: Bench, alone: Curve, zero: int, tmp_path: Path) -> None:
    """Near the curve of fp32, whichever optimizer of DeepSpeed holds the masters; and resumed to the same bits."""
    nears(bench, tmp_path, alone, {**ADAFACTOR, "parallel__zero": zero})
