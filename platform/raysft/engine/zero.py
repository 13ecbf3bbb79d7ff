"""ZeRO 0-3 on DeepSpeed as an Engine. The only importer of deepspeed.

Loss scale: DeepSpeed averages gradients over replicas, so each micro-batch's sum is multiplied by the number
of replicas and divided by the units of the WHOLE global step. Accumulation borders are set by hand.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
)
from torch import Tensor, nn

from raysft.engine.ds_config import deepspeed_config, effective_stage
from raysft.engine.protocol import MicroBatch, StepResult
from raysft.recipe.resolve import ResolvedRun

MOMENTS = ("exp_avg", "exp_avg_sq")


class ZeroEngine:
    """Engine on deepspeed.initialize. torch.distributed must be initialised."""

    def __init__(
        self, module: nn.Module, run: ResolvedRun, device: torch.device, restored: Mapping[str, Tensor] | None = None
    ) -> None:
        self._stage, self._bf16 = effective_stage(run), run.recipe.train.precision == "bf16"
        self._max_grad_norm, self._seed = run.recipe.optimizer.max_grad_norm, run.recipe.seed
        self._num_replicas, self._device = run.num_replicas, device
        self._trained = {_hf_name(name): p for name, p in module.named_parameters() if p.requires_grad}
        if restored is not None:
            _set_weights(self._trained, restored)
        optimizer = _adamw(self._trained, run)
        _use_no_compiler()
        self._deepspeed, _, _, _ = deepspeed.initialize(
            model=module, optimizer=optimizer, config=deepspeed_config(run), dist_init_required=False
        )
        self._adam: torch.optim.Optimizer = optimizer
        self._prime_adam()
        if restored is not None:
            self._restore_adam(restored)

    def train_step(
        self, micro_batches: Sequence[MicroBatch], units: Mapping[str, float], *, step: int, learning_rate: float
    ) -> StepResult:
        """See Engine."""
        names = sorted(units)
        totals = dict(zip(names, self._sum([units[name] for name in names]), strict=True))
        for group in self._adam.param_groups:
            group["lr"] = learning_rate
        self._deepspeed.train()
        sums = {name: torch.zeros((), dtype=torch.float64, device=self._device) for name in names}
        for number, batch in enumerate(micro_batches):
            self._deepspeed.set_gradient_accumulation_boundary(number == len(micro_batches) - 1)
            torch.manual_seed(_dropout_seed(self._seed, step, batch.index))
            terms: dict[str, Tensor] = self._deepspeed(*self._tensors(batch))
            loss = torch.stack([terms[name] / totals[name] for name in names]).sum() * self._num_replicas
            self._deepspeed.backward(loss)
            for name in names:
                sums[name] += terms[name].detach().double()
        grad_norm = self._update()
        local_tokens = sum(batch.num_tokens for batch in micro_batches)
        *reduced, tokens = self._sum([*(float(sums[name]) for name in names), local_tokens])
        return StepResult(
            terms={name: value / totals[name] for name, value in zip(names, reduced, strict=True)},
            units=totals,
            tokens=int(tokens),
            grad_norm=grad_norm,
            skipped=not math.isfinite(grad_norm),
            sample_ids=tuple(int(i) for batch in micro_batches for i in batch.sample_ids),
        )

    def eval_step(self, micro_batches: Sequence[MicroBatch]) -> dict[str, float]:
        """See Engine."""
        self._deepspeed.eval()
        sums: dict[str, float] = {}
        with torch.no_grad():
            for batch in micro_batches:
                for name, value in self._deepspeed(*self._tensors(batch)).items():
                    sums[name] = sums.get(name, 0.0) + float(value)
        names = sorted(sums)
        return dict(zip(names, self._sum([sums[name] for name in names]), strict=True))

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """See Engine."""
        yield "adam_step", next(iter(self._adam.state.values()))["step"].float().cpu()
        for name, parameter in self._trained.items():
            if self._is_plain:
                yield f"weight:{name}", parameter.detach().cpu()
                for moment in MOMENTS:
                    yield f"{moment}:{name}", self._adam.state[parameter][moment].cpu()
            else:
                yield f"weight:{name}", safe_get_full_fp32_param(parameter).cpu()
                for moment in MOMENTS:
                    yield f"{moment}:{name}", safe_get_full_optimizer_state(parameter, moment).cpu()

    def close(self) -> None:
        """Free what DeepSpeed holds: hooks, buffers, groups."""
        self._deepspeed.destroy()

    @property
    def _is_plain(self) -> bool:
        """fp32 ZeRO 0: DeepSpeed leaves the torch optimizer as it is."""
        return self._stage == 0

    def _tensors(self, batch: MicroBatch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        arrays = (batch.input_ids, batch.position_ids, batch.labels, batch.weights)
        input_ids, position_ids, labels, weights = (torch.from_numpy(a).to(self._device) for a in arrays)
        return input_ids, position_ids, labels, weights

    def _sum(self, values: list[float]) -> list[float]:
        """Sum over all ranks, in float64."""
        total = torch.tensor(values, dtype=torch.float64, device=self._device)
        dist.all_reduce(total)
        reduced: list[float] = total.tolist()
        return reduced

    def _update(self) -> float:
        """One optimizer update, or none when the gradients are not finite. Returns their norm.

        ZeRO 1-3 decide for all ranks by themselves; for fp32 ZeRO 0 and for DeepSpeed's BF16_Optimizer
        (bf16 ZeRO 0 and 1), which do not look, the norm is taken before the step.
        """
        if self._is_plain:
            gradients = [p.grad for p in self._trained.values() if p.grad is not None]
            norm = float(torch.nn.utils.get_total_norm(gradients))
            if not math.isfinite(norm):
                self._deepspeed.zero_grad()
                return math.inf
            self._deepspeed.step()
            return norm
        zero = self._deepspeed.optimizer
        if self._bf16 and self._stage == 1:
            local = torch.nn.utils.get_total_norm(zero.get_grads_for_norm()[0]).double() ** 2
            if not math.isfinite(self._sum([float(local)])[0]):
                zero.zero_grad()
                return math.inf
            self._deepspeed.step()
            return float(self._deepspeed.get_global_grad_norm())
        self._deepspeed.step()
        return math.inf if zero.overflow else float(self._deepspeed.get_global_grad_norm())

    def _prime_adam(self) -> None:
        """Give every parameter its (zero) Adam state before the first step, and link it.

        Moments can only be read and set where they exist. DeepSpeed links them after the first group's first
        step, when further groups have none yet and then never get any (0.19.8, stage_1_and_2.py).
        """
        keys = list(self._trained.values()) if self._is_plain else self._flat_partitions()
        for key in keys:
            moments = {moment: torch.zeros_like(key, memory_format=torch.preserve_format) for moment in MOMENTS}
            self._adam.state[key] = {"step": torch.zeros(()), **moments}
        if 0 < self._stage < 3:
            self._deepspeed.optimizer._lazy_init_hp_params_optimizer_state()

    def _flat_partitions(self) -> list[Tensor]:
        """This rank's flat fp32 partitions, the keys of Adam's state. Names of DeepSpeed 0.19.8, tested."""
        zero = self._deepspeed.optimizer
        if self._stage == 3:
            flats: list[Tensor] = zero.fp32_partitioned_groups_flat
        elif self._stage == 1 and self._bf16:
            flats = zero.fp32_groups_flat_partition
        else:
            flats = zero.single_partition_of_fp32_groups
        return flats

    def _restore_adam(self, restored: Mapping[str, Tensor]) -> None:
        """Moments, number of updates and (under ZeRO) fp32 masters from whole tensors."""
        for slot in self._adam.state.values():
            slot["step"] = restored["adam_step"].clone()
        for name, parameter in self._trained.items():
            moments = {moment: restored[f"{moment}:{name}"].to(self._device) for moment in MOMENTS}
            if self._is_plain:
                self._adam.state[parameter].update({moment: value.clone() for moment, value in moments.items()})
                continue
            safe_set_full_fp32_param(parameter, restored[f"weight:{name}"].to(self._device))
            for moment, value in moments.items():
                safe_set_full_optimizer_state(parameter, value, moment)


def _use_no_compiler() -> None:
    """Without this, DeepSpeed compiles a shared-memory all-reduce on CPU that only its inference uses: it would
    need gcc and ninja, and a worker killed in mid-compilation would leave a lock that stops the next ones.
    DeepSpeed keeps this dict for edits (deepspeed/ops/__init__.py)."""
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def _hf_name(name: str) -> str:
    """ObjectiveModule holds the model as `.model`; checkpoints use the model's own names."""
    return name.removeprefix("model.")


def _set_weights(trained: Mapping[str, nn.Parameter], restored: Mapping[str, Tensor]) -> None:
    """Before deepspeed.initialize: masters and partitions are then made from these."""
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(restored[f"weight:{name}"])


def _adamw(trained: Mapping[str, nn.Parameter], run: ResolvedRun) -> torch.optim.AdamW:
    """Matrices decay; vectors (biases, norms) do not."""
    section = run.recipe.optimizer
    matrices = [p for p in trained.values() if p.ndim >= 2]
    vectors = [p for p in trained.values() if p.ndim < 2]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": section.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=section.learning_rate,
        betas=(section.beta1, section.beta2),
        eps=section.eps,
    )


def _dropout_seed(seed: int, step: int, index: int) -> int:
    """One generator seed per micro-batch of the run: no RNG state needs saving."""
    return ((seed * 1_000_003 + step) * 65_537 + index) % 2**63
