"""What every engine does alike: names and start values of the trained parameters, their optimizer, dropout seeds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import deepspeed
import torch
from torch import nn

from raysft.engine.adafactor import Adafactor
from raysft.engine.muon import MatrixAdamW
from raysft.engine.slices import Cut, Saved
from raysft.model.heads import AUXILIARY
from raysft.model.matrices import matrices
from raysft.recipe.objective_traits import objective_of
from raysft.recipe.resolve import ResolvedRun
from raysft.recipe.sections.optimizer import AdafactorOptimizer, MomentsOptimizer, MuonOptimizer
from raysft.recipe.traits import method_of

_PER_CHANNEL = re.compile("bias|norm|(^|_)log$|(^|_)scale$")
"""Names of parameters that are no matrices whatever their axes."""
_SCALES = re.compile(r"(^|\.)ia3_l$")
"""Names of the dicts that hold an adapter's scales, [1, inputs] or [outputs, 1], which begin at 1."""


def hf_name(name: str) -> str:
    """ObjectiveModule holds the model as `.model`; checkpoints use the model's own names."""
    return name.removeprefix("model.")


def set_weights(trained: Mapping[str, nn.Parameter], restored: Saved, cuts: Mapping[str, Cut]) -> None:
    """Before deepspeed.initialize: masters and partitions are then made from these.

    cuts: of those that are shards. Raises as Saved.read().
    """
    for name, parameter in trained.items():
        restored.read(f"weight:{name}", parameter.data, 0, cuts.get(name))


def make_optimizer(
    module: nn.Module, trained: Mapping[str, nn.Parameter], run: ResolvedRun
) -> torch.optim.AdamW | Adafactor:
    """Matrices decay; biases, norms and what else is a number for each channel do not. module: holds `trained`.

    `lr_ratio` of a group: what set_learning_rate multiplies by. `momentum` of a group: Muon's; it has matrices alone.
    """
    section, still, method = run.recipe.optimizer, undecayed(module), run.recipe.method
    ratio_of, of_second = method_of(run.recipe).learning_rate_ratio, objective_of(run.recipe).auxiliary_rate
    is_muon = isinstance(section, MuonOptimizer)
    moved = set(matrices(module).values()) if is_muon else set[nn.Parameter]()
    members: dict[tuple[bool, bool, float], list[nn.Parameter]] = {}
    for name, parameter in trained.items():
        ratio = of_second(run.recipe.objective) if name.startswith(AUXILIARY) else ratio_of(method, name)
        key = (parameter in moved, parameter in still, ratio)
        members.setdefault(key, []).append(parameter)
    groups: list[dict[str, Any]] = [
        {
            "params": found,
            "weight_decay": 0.0 if is_still else section.weight_decay,
            "lr_ratio": ratio,
            **({"momentum": section.momentum} if is_matrix and isinstance(section, MuonOptimizer) else {}),
        }
        for (is_matrix, is_still, ratio), found in sorted(members.items(), key=lambda item: item[0])
    ]
    if isinstance(section, AdafactorOptimizer):
        decay, clip = section.moment_decay, section.clip_threshold
        return Adafactor(groups, trained, learning_rate=section.learning_rate, decay=decay, clip=clip)
    assert isinstance(section, MomentsOptimizer)
    kind = MatrixAdamW if is_muon else torch.optim.AdamW
    return kind(
        groups,
        lr=section.learning_rate,
        betas=(section.beta1, section.beta2),
        eps=section.eps,
        fused=True,  # one pass over the memory: 4 to 10 times faster than torch's default on a CPU
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set that of the next update. optimizer: of make_optimizer()."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["lr_ratio"]


def undecayed(module: nn.Module) -> set[nn.Parameter]:
    """The parameters of a module that weight decay must not reach, by what they are for and not by their axes:
    biases (those of experts have two axes), weights of norms (Cohere's have one row a head), decays and scales of
    channels (Mamba's A_log, RWKV's time_mix), scales that an adapter multiplies channels by.
    """
    return {
        parameter
        for path, owner in module.named_modules()
        for name, parameter in owner.named_parameters(recurse=False)
        if parameter.ndim < 2
        or "norm" in type(owner).__name__.lower()
        or _PER_CHANNEL.search(name)
        or _SCALES.search(path)
        or (parameter.ndim > 2 and parameter.shape[:-1].numel() == 1)
    }


def dropout_seed(seed: int, step: int, index: int) -> int:
    """One generator seed per micro-batch of the run: no RNG state needs saving."""
    return ((seed * 1_000_003 + step) * 65_537 + index) % 2**63


def use_no_compiler() -> None:
    """Without this, DeepSpeed compiles a shared-memory all-reduce on CPU that only its inference uses: it would
    need gcc and ninja, and a worker killed in mid-compilation would leave a lock that stops the next ones.
    DeepSpeed keeps this dict for edits (deepspeed/ops/__init__.py)."""
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
