"""Every kind of adapter equals peft alone in a bare loop, over every split that its traits allow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bench import LORA, TOLERANCE, Bench, cells, furthest
from material import CONFIG, make_samples
from peft import IA3Config, LoraConfig, PeftConfig, get_peft_model
from reference import fresh_model, tokens_and_targets
from torch import nn

from raysft.recipe.traits import METHODS

UNTIL = 8
DECAY, LEARNING_RATE = 0.1, 3e-3

ADAPTERS: dict[str, tuple[dict[str, Any], Callable[[], PeftConfig], float]] = {
    "lora": (LORA, lambda: LoraConfig(r=4, lora_alpha=8.0, target_modules=["q_proj", "v_proj"]), DECAY),
    "ia3": (
        {"method__kind": "ia3"},
        lambda: IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]),
        0.0,
    ),
}
"""{kind: (fields of a recipe, peft's own config, weight decay of its parameters)}."""

SPLITS: dict[str, tuple[int, dict[str, Any]]] = {
    "ZeRO 0": (1, {}),
    "ZeRO 1, micro-batch 4": (2, {"parallel__zero": 1, "train__micro_batch_rows": 4}),
    "ZeRO 2": (2, {"parallel__zero": 2}),
    "ZeRO 3, micro-batch 2": (2, {"parallel__zero": 3, "train__micro_batch_rows": 2}),
    "pipeline": (2, {"parallel__pipeline": 2, "parallel__zero": 1}),
    "sequence": (2, {"parallel__sequence": 2, "parallel__zero": 2}),
    "tensor": (2, {"parallel__tensor": 2, "parallel__zero": 1}),
    "unpacked": (1, {"data__packing": False}),
}


def test_every_adapter_is_here() -> None:
    assert ADAPTERS.keys() == {name for name, traits in METHODS.items() if not traits.trains_base}


@pytest.fixture(scope="module")
def alone(bench: Bench) -> dict[str, tuple[list[float], list[float]]]:
    """(losses, norms) by peft alone, on the samples of each step."""
    return {kind: by_peft(bench, kind) for kind in ADAPTERS}


def by_peft(bench: Bench, kind: str) -> tuple[list[float], list[float]]:
    _, config, decay = ADAPTERS[kind]
    samples = [tokens_and_targets(bench.tokenizer, q, a) for q, a in make_samples()]
    model = fresh_model(CONFIG, len(bench.tokenizer), seed=0)
    torch.manual_seed(0)
    adapted = get_peft_model(model, config())
    trained = [p for p in adapted.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=decay, betas=(0.9, 0.95), eps=1e-8)
    losses, norms = [], []
    for members in bench.base["samples"][:UNTIL]:
        total, count = torch.zeros(()), 0
        for member in members:
            ids, target = samples[member]
            logits = adapted(input_ids=torch.tensor([ids])).logits[0, :-1]
            keep = torch.tensor(target[1:])
            total = total + nn.functional.cross_entropy(logits[keep], torch.tensor(ids[1:])[keep], reduction="sum")
            count += int(keep.sum())
        optimizer.zero_grad()
        (total / count).backward()
        norms.append(float(nn.utils.clip_grad_norm_(trained, 1.0)))
        optimizer.step()
        losses.append((total / count).item())
    return losses, norms


@pytest.mark.parametrize("kind", ADAPTERS)
@pytest.mark.parametrize("split", cells(*SPLITS, often=("ZeRO 0", "ZeRO 3, micro-batch 2", "pipeline")))
def test_an_adapter_equals_peft_alone(
    bench: Bench, alone: dict[str, tuple[list[float], list[float]]], kind: str, split: str
) -> None:
    workers, changes = SPLITS[split]
    if split in ("pipeline", "tensor", "sequence") and split not in METHODS[kind].allows:
        pytest.skip("the matrix refuses it")
    found = bench.cell(workers, until=UNTIL, **ADAPTERS[kind][0], **changes)[0]
    losses, norms = alone[kind]
    assert furthest(found["losses"], losses) < TOLERANCE
    assert furthest(found["norms"], norms) < TOLERANCE


def test_scales_resume_bit_identically(bench: Bench, tmp_path: Path) -> None:
    cell = {**ADAPTERS["ia3"][0], "parallel__zero": 2, "train__micro_batch_rows": 2}
    whole = bench.cell(2, until=6, **cell)[0]
    first = bench.cell(2, until=3, save=True, run=str(tmp_path), **cell)[0]
    second = bench.cell(2, until=6, run=str(tmp_path), **cell)[0]
    assert first["losses"] + second["losses"] == whole["losses"]
    assert second["weights"] == whole["weights"]
