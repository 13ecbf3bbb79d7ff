"""Muon over every split of data, against an update of one process that is written out here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from bench import LORA, Bench, Curve, cells, follows, nears, resumes
from material import CONFIG, make_samples
from peft import LoraConfig, get_peft_model
from reference import fresh_model, mean_loss, tokens_and_targets
from torch import nn

UNTIL = 6
RATE, DECAY, MOMENTUM = 3e-3, 0.1, 0.9
MUON = {"optimizer__kind": "muon", "optimizer__momentum": MOMENTUM}

SPLITS: dict[str, tuple[int, dict[str, Any]]] = {
    "ZeRO 0": (1, {}),
    "ZeRO 0, two": (2, {}),
    "ZeRO 1": (2, {"parallel__zero": 1}),
    "ZeRO 2, micro-batch 4": (2, {"parallel__zero": 2, "train__micro_batch_rows": 4}),
    "ZeRO 3": (2, {"parallel__zero": 3}),
    "sequence": (2, {"parallel__sequence": 2, "parallel__zero": 2}),
}


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """By its definition in singular values: each is sent through the polynomial five times."""
    u, values, v = torch.linalg.svd(matrix.double() / (matrix.double().norm() + 1e-7), full_matrices=False)
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return u @ torch.diag(values) @ v


def by_hand(bench: Bench, model: nn.Module) -> Curve:
    """(losses, gradient norms). Matrices of linear layers but the head by Muon, everything else by AdamW."""
    samples = [tokens_and_targets(bench.tokenizer, q, a) for q, a in make_samples()]
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    is_matrix = {n: p.ndim == 2 and "embed_tokens" not in n and "lm_head" not in n for n, p in trained.items()}
    others = [
        {"params": [p for n, p in trained.items() if not is_matrix[n] and p.ndim == 2], "weight_decay": DECAY},
        {"params": [p for n, p in trained.items() if not is_matrix[n] and p.ndim == 1], "weight_decay": 0.0},
    ]
    groups = [group for group in others if group["params"]]
    adamw = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.95), eps=1e-8) if groups else None
    means = {n: torch.zeros_like(p) for n, p in trained.items() if is_matrix[n]}
    losses, norms = [], []
    for members in bench.base["samples"][:UNTIL]:
        loss = mean_loss(model, samples, members)
        for parameter in trained.values():
            parameter.grad = None
        loss.backward()
        norms.append(float(nn.utils.clip_grad_norm_(trained.values(), 1.0)))
        if adamw:
            adamw.step()
        with torch.no_grad():
            for name, mean in means.items():
                weight, gradient = trained[name], trained[name].grad
                assert gradient is not None
                mean.mul_(MOMENTUM).add_(gradient, alpha=1 - MOMENTUM)
                ahead = MOMENTUM * mean + (1 - MOMENTUM) * gradient
                size = 0.2 * max(weight.shape) ** 0.5
                weight.mul_(1 - RATE * DECAY).sub_(RATE * size * orthogonal(ahead).float())
        losses.append(loss.item())
    return losses, norms


@pytest.fixture(scope="module")
def alone(bench: Bench) -> Curve:
    return by_hand(bench, fresh_model(CONFIG, len(bench.tokenizer), seed=0))


@pytest.mark.parametrize("split", cells(*SPLITS, often=("ZeRO 3",)))
def test_every_split_moves_as_one_process(bench: Bench, alone: Curve, split: str, tmp_path: Path) -> None:
    """And resumes to the same bits in mid-run."""
    workers, changes = SPLITS[split]
    cell = {**MUON, **changes}
    found = bench.cell(workers, until=UNTIL, **cell)[0]
    follows(found, alone)
    resumes(bench, tmp_path, found, (workers, 3, UNTIL), cell)


@pytest.mark.full
@pytest.mark.parametrize("zero", [0, 3])
def test_adapters(bench: Bench, zero: int) -> None:
    """Both matrices of an adapter; there is nothing left for AdamW."""
    config = LoraConfig(r=4, lora_alpha=8.0, target_modules=["q_proj", "v_proj"])
    model = fresh_model(CONFIG, len(bench.tokenizer), seed=0)
    torch.manual_seed(0)
    curve = by_hand(bench, get_peft_model(model, config))
    found = bench.cell(2, until=UNTIL, **MUON, **LORA, parallel__zero=zero)[0]
    follows(found, curve)


@pytest.mark.full
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_in_bf16(bench: Bench, alone: Curve, zero: int, tmp_path: Path) -> None:
    """Near the curve of fp32, whichever optimizer of DeepSpeed holds the masters; and resumed to the same bits."""
    nears(bench, tmp_path, alone, {**MUON, "parallel__zero": zero})
