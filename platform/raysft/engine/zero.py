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
        self._deepspeed, _, _, _ = deepspeed.initialize(
            model=module, optimizer=optimizer, config=deepspeed_config(run), dist_init_required=False
        )
        self._adam: torch.optim.Optimizer = optimizer
        if restored is not None:
            self._restore_optimizer(restored)

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
        slots = list(self._adam.state.values())
        yield "adam_step", slots[0]["step"].float().cpu() if slots else torch.zeros(())
        for name, parameter in self._trained.items():
            weight = parameter.detach() if self._is_plain else safe_get_full_fp32_param(parameter)
            yield f"weight:{name}", weight.cpu()
            for moment in MOMENTS:
                if not slots:  # every step so far was skipped
                    yield f"{moment}:{name}", torch.zeros_like(weight, device="cpu")
                elif self._is_plain:
                    yield f"{moment}:{name}", self._adam.state[parameter][moment].cpu()
                else:
                    yield f"{moment}:{name}", safe_get_full_optimizer_state(parameter, moment).cpu()

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
            local = torch.nn.utils.get_total_norm(zero.get_grads_for_norm()).double() ** 2
            if not math.isfinite(self._sum([float(local)])[0]):
                zero.zero_grad()
                return math.inf
            self._deepspeed.step()
            return float(self._deepspeed.get_global_grad_norm())
        self._deepspeed.step()
        return math.inf if zero.overflow else float(self._deepspeed.get_global_grad_norm())

    def _restore_optimizer(self, restored: Mapping[str, Tensor]) -> None:
        """Adam moments, step count and fp32 masters. Order matters: state is primed and linked, then set."""
        count = restored["adam_step"].float()
        if self._is_plain:
            for name, parameter in self._trained.items():
                moments = {m: restored[f"{m}:{name}"].to(parameter.device).clone() for m in MOMENTS}
                self._adam.state[parameter] = {"step": count.clone(), **moments}
            return
        zero = self._deepspeed.optimizer
        for flat in _flat_partitions(zero, self._stage, self._bf16):
            self._adam.state[flat] = {"step": count.clone(), **{m: torch.zeros_like(flat) for m in MOMENTS}}
        if self._stage < 3:
            zero._lazy_init_hp_params_optimizer_state()
        for name, parameter in self._trained.items():
            safe_set_full_fp32_param(parameter, restored[f"weight:{name}"].to(self._device))
            for moment in MOMENTS:
                safe_set_full_optimizer_state(parameter, restored[f"{moment}:{name}"].to(self._device), moment)


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


def _flat_partitions(zero: Any, stage: int, bf16: bool) -> list[Tensor]:
    """This rank's flat fp32 partitions, the keys of Adam's state. Names of DeepSpeed 0.19.8, tested."""
    if stage == 3:
        flats: list[Tensor] = zero.fp32_partitioned_groups_flat
    elif stage == 1 and bf16:
        flats = zero.fp32_groups_flat_partition
    else:
        flats = zero.single_partition_of_fp32_groups
    return list(flats)


def _dropout_seed(seed: int, step: int, index: int) -> int:
    """One generator seed per micro-batch of the run: no RNG state needs saving."""
    return (seed * 1_000_003 + step) * 65_537 + index
