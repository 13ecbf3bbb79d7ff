"""ZeRO 0-3 on DeepSpeed as an Engine.

Loss scale: DeepSpeed averages gradients over replicas and the parts of their rows, so each micro-batch's sum is
multiplied by their number and divided by the units of the WHOLE global step. Accumulation borders are set by hand.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor, nn

from raysft.engine.adam import AdamState
from raysft.engine.ds_config import deepspeed_config, effective_stage, keeps_bf16_apart
from raysft.engine.parameters import adamw, dropout_seed, hf_name, set_weights, tensors, use_no_compiler
from raysft.engine.protocol import MicroBatch, StepResult
from raysft.engine.step_costs import StepWatch
from raysft.engine.tensor import WHOLE, Shards
from raysft.recipe.resolve import ResolvedRun

_PART_SEEDS = 2**40
"""Distance of the dropout seeds of two parts of a row."""


class ZeroEngine:
    """Engine on deepspeed.initialize. torch.distributed must be initialised."""

    def __init__(
        self,
        module: nn.Module,
        run: ResolvedRun,
        device: torch.device,
        restored: Mapping[str, Tensor] | None = None,
        shards: Shards = WHOLE,
    ) -> None:
        """shards: how the module's parameters are cut. restored: whole tensors."""
        self._shards = shards
        self._stage, self._bf16 = effective_stage(run), keeps_bf16_apart(run)
        self._max_grad_norm, self._seed = run.recipe.optimizer.max_grad_norm, run.recipe.seed
        self._place, self._device = run.layout.coordinate(dist.get_rank()), device
        self._num_parts = run.layout.replicas * run.layout.sequence
        self._trained = {hf_name(name): p for name, p in module.named_parameters() if p.requires_grad}
        restored = None if restored is None else shards.own_of(restored)
        if restored is not None:
            set_weights(self._trained, restored)
        optimizer = adamw(module, self._trained, run)
        use_no_compiler()
        self._deepspeed, _, _, _ = deepspeed.initialize(
            model=module, optimizer=optimizer, config=deepspeed_config(run), dist_init_required=False
        )
        self._adam: torch.optim.Optimizer = optimizer
        self._state = AdamState(self._deepspeed, optimizer, self._trained, self._stage, bf16=self._bf16)
        if restored is not None:
            self._state.restore(restored)

    def train_step(
        self,
        micro_batches: Sequence[MicroBatch],
        units: Mapping[str, float],
        *,
        step: int,
        learning_rate: float,
        data_wait_s: float = 0.0,
        notice: int = 0,
    ) -> StepResult:
        """See Engine."""
        watch = StepWatch(self._device, data_wait_s, notice)
        names, leads = sorted(units), self._place.leads
        totals = self._all_reduced([units[name] * leads for name in names])  # [terms] float64
        for group in self._adam.param_groups:
            group["lr"] = learning_rate
        self._deepspeed.train()
        sums, counts = torch.zeros_like(totals), self._place.tensor == 0  # tensor-parallel ranks all know the sums
        for number, batch in enumerate(micro_batches):
            self._deepspeed.set_gradient_accumulation_boundary(number == len(micro_batches) - 1)
            torch.manual_seed(dropout_seed(self._seed, step, batch.index) + self._place.sequence * _PART_SEEDS)
            with watch.forward():
                terms: dict[str, Tensor] = self._deepspeed(*tensors(batch, self._device))
            stacked = torch.stack([terms[name] for name in names])
            self._deepspeed.backward((stacked / totals.to(stacked.dtype)).sum() * self._num_parts)
            sums += stacked.detach() * counts
        watch.backward_ended()
        grad_norm = self._update()
        tokens = sum(batch.num_tokens for batch in micro_batches) * leads
        ranks, costs = watch.gather(torch.cat([totals, sums, totals.new_tensor([tokens])]))
        units, local = dict(zip(names, ranks[0], strict=False)), ranks[:, len(names) :].sum(axis=0)
        return StepResult(
            terms={name: float(value / units[name]) for name, value in zip(names, local, strict=False)},
            units={name: float(total) for name, total in units.items()},
            tokens=int(local[-1]),
            grad_norm=grad_norm,
            skipped=not math.isfinite(grad_norm),
            sample_ids=tuple(int(i) for batch in micro_batches for i in batch.sample_ids) if leads else (),
            costs=costs,
        )

    def eval_step(self, micro_batches: Sequence[MicroBatch]) -> dict[str, float]:
        """See Engine."""
        self._deepspeed.eval()
        sums: dict[str, float] = {}
        with torch.no_grad():
            for batch in micro_batches:
                for name, value in self._deepspeed(*tensors(batch, self._device)).items():
                    sums[name] = sums.get(name, 0.0) + float(value) * (self._place.tensor == 0)
        names = sorted(sums)
        return dict(zip(names, self._sum([sums[name] for name in names]), strict=True))

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """See Engine."""
        yield "adam_step", self._state.num_updates()
        for name in self._trained:
            for key, tensor in self._state.read(name):
                is_cut = name in self._shards.axes
                yield key, self._shards.whole(name, tensor.to(self._device)) if is_cut else tensor

    def close(self) -> None:
        """Free what DeepSpeed holds: hooks, buffers, groups."""
        self._deepspeed.destroy()

    def _sum(self, values: list[float]) -> list[float]:
        """Sum over all ranks, in float64."""
        reduced: list[float] = self._all_reduced(values).tolist()
        return reduced

    def _all_reduced(self, values: list[float]) -> Tensor:
        """As _sum, on the device: nobody waits for it."""
        total = torch.tensor(values, dtype=torch.float64, device=self._device)
        dist.all_reduce(total)
        return total

    def _update(self) -> float:
        """One optimizer update, or none when the gradients are not finite. Returns their norm.

        ZeRO 1-3 decide for all ranks by themselves; for fp32 ZeRO 0 and for DeepSpeed's BF16_Optimizer
        (bf16 ZeRO 0 and 1), which do not look, the norm is taken before the step.
        """
        if self._state.is_plain:
            norm = self._shards.norm({name: p.grad for name, p in self._trained.items() if p.grad is not None})
            if not math.isfinite(norm):
                self._deepspeed.zero_grad()
                return math.inf
            torch.nn.utils.clip_grads_with_norm_(self._trained.values(), self._max_grad_norm, torch.tensor(norm))
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
