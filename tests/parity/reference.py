"""A bare PyTorch loop: own prompt text, own mask, own batches, own normalisation. Imports nothing of raysft."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast


def tokens_and_targets(
    tokenizer: PreTrainedTokenizerFast, question: str, answer: str
) -> tuple[list[int], list[bool]]:
    """ChatML by hand; the target is the answer and its end-of-turn token. Bytes are tokens: pieces are safe."""

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False).input_ids

    head = ids(f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n")
    body, tail = ids(f"{answer}<|im_end|>"), ids("\n")
    return head + body + tail, [False] * len(head) + [True] * len(body) + [False] * len(tail)


def fresh_model(config: dict[str, Any], vocab_size: int, seed: int) -> nn.Module:
    fields = {key: value for key, value in config.items() if key != "model_type"}
    settings = AutoConfig.for_model(config["model_type"], **fields, vocab_size=vocab_size)
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(settings, dtype=torch.float32)


def mean_loss(model: nn.Module, samples: list[tuple[list[int], list[bool]]], members: list[int]) -> torch.Tensor:
    """Over all target tokens of a step's samples, each by itself; virtual tokens before a sample are passed over."""
    total, count = torch.zeros(()), 0
    for member in members:
        ids, target = samples[member]
        logits = model(input_ids=torch.tensor([ids])).logits[0, -len(ids) : -1]
        keep = torch.tensor(target[1:])
        total = total + nn.functional.cross_entropy(logits[keep], torch.tensor(ids[1:])[keep], reduction="sum")
        count += int(keep.sum())
    return total / count


def run_reference(
    model: nn.Module,
    samples: list[tuple[list[int], list[bool]]],
    steps: list[list[int]],
    *,
    learning_rate: float,
    weight_decay: float,
    max_grad_norm: float,
) -> tuple[list[float], list[float]]:
    """(loss of each step, gradient norm of each step). One padded batch of whole samples a step."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in trained if p.ndim == 1], "weight_decay": 0.0},
        ],
        lr=learning_rate,
        betas=(0.9, 0.95),
        eps=1e-8,
    )
    losses, norms = [], []
    for members in steps:
        loss = mean_loss(model, samples, members)
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(nn.utils.clip_grad_norm_(trained, max_grad_norm)))
        optimizer.step()
        losses.append(float(loss))
    return losses, norms
