"""A trial's engine beside others on one base: its own adapter, optimizer state and clipping; the passes are common.

The update is the one of fp32 ZeRO 0 on one worker (zero.py), so a checkpoint of either goes on in the other. In bf16
the base computes in bf16 and the adapters are kept, and their gradients summed, in fp32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import torch

from raysft.engine.adam import AdamState
from raysft.engine.hold import Hold
from raysft.engine.parameters import dropout_seed, hf_name, make_optimizer, set_learning_rate, set_weights
from raysft.engine.protocol import StepResult
from raysft.engine.rendezvous import Rendezvous, TrialPass
from raysft.engine.slices import Copies, Saved, Slice, slices, whole
from raysft.engine.step import (
    assemble,
    assembled_sums,
    divisors,
    in_order,
    metric_width,
    stacked,
    step_numbers,
    vector,
)
from raysft.engine.step_costs import StepWatch
from raysft.model.fast.shared_base import SharedBase
from raysft.model.methods import low_rank_adapters
from raysft.objectives.batch import HostBatch
from raysft.objectives.module import ObjectiveModule
from raysft.objectives.reduce import Sums
from raysft.recipe.resolve import ResolvedRun


class FusedEngine:
    """Engine of one trial of several on one base. torch.distributed must be initialised, with one process."""

    def __init__(
        self,
        module: ObjectiveModule,
        run: ResolvedRun,
        device: torch.device,
        restored: Saved | None,
        rendezvous: Rendezvous,
        place: tuple[int, SharedBase],
    ) -> None:
        """module: made on place[1].blank(). place: the trial's number, and the base that its adapter is put on."""
        self._rendezvous, (self._trial, self._base), self._device = rendezvous, place, device
        self.hold = Hold()
        self._objective, self._recipe, self._done = module.objective, run.recipe, module.done
        self._trained = {hf_name(name): p for name, p in module.named_parameters() if p.requires_grad}
        if restored is not None:
            set_weights(self._trained, restored, {})
        self._adam = make_optimizer(module, self._trained, run)
        self._state = AdamState(None, self._adam, self._trained, stage=0, bf16=False)
        if restored is not None:
            self._state.restore(restored, {})
        self._base.attach(self._trial, low_rank_adapters(module.model))

    def train_step(
        self,
        micro_batches: Sequence[HostBatch],
        units: Mapping[str, float],
        *,
        step: int,
        learning_rate: float,
        aside: Sequence[float] = (),
    ) -> StepResult:
        """See Engine."""
        watch, terms, parameters = StepWatch(self._device), self._objective.terms, list(self._trained.values())
        totals = torch.tensor(in_order(terms, units), dtype=torch.float64, device=self._device)
        shares, sums = divisors(totals).tolist(), torch.zeros_like(totals)
        metrics = totals.new_zeros(metric_width(self._objective))
        numbers = step_numbers(self._objective, partial(self._measure, micro_batches, units), self._done(step))
        for batch in micro_batches:
            wanted = TrialPass(
                trial=self._trial,
                batch=batch,
                objective=self._objective,
                numbers=numbers,
                shares={term.name: share for term, share in zip(terms, shares, strict=True)},
                parameters=parameters,
                seed=dropout_seed(self._recipe.seed, step, batch.index),
            )
            found = stacked(self._rendezvous.train(wanted, self._recipe.cluster.hang_timeout_s), self._objective)
            sums += found.sums
            metrics += found.metrics
        watch.backward_ended()
        self.hold.end()
        grad_norm = self._update(learning_rate)
        tokens = sum(batch.num_tokens for batch in micro_batches)
        told, costs, asides = watch.gather(vector(totals, sums, metrics, tokens), aside)
        reduced, all_tokens = assemble(told, self._objective)
        return StepResult(
            found=reduced,
            tokens=all_tokens,
            grad_norm=grad_norm,
            skipped=not math.isfinite(grad_norm),
            sample_ids=tuple(int(i) for batch in micro_batches for i in batch.sample_ids),
            costs=costs,
            asides=asides,
        )

    def eval_step(self, micro_batches: Sequence[HostBatch], units: Mapping[str, float]) -> Sums:
        """See Engine."""
        measure = partial(self._measure, micro_batches, units)
        return measure(step_numbers(self._objective, measure))

    def _measure(
        self, micro_batches: Sequence[HostBatch], units: Mapping[str, float], numbers: Mapping[str, float]
    ) -> Sums:
        """Sums of the trial, without gradients. numbers: see engine/step.py, step_numbers."""
        terms = self._objective.terms
        sums = torch.zeros(len(terms) + metric_width(self._objective), dtype=torch.float64, device=self._device)
        for batch in micro_batches:
            wanted = TrialPass(self._trial, batch, self._objective, shares={}, numbers=numbers)
            found = stacked(self._rendezvous.evaluate(wanted), self._objective)
            sums += torch.cat([found.sums, found.metrics])
        return assembled_sums([*in_order(terms, units), *sums.tolist()], self._objective)

    def state(self) -> Iterator[Slice]:
        """See Engine."""
        yield whole("adam_step", self._state.num_updates())
        shapes = {name: tuple(parameter.shape) for name, parameter in self._trained.items()}
        yield from slices(self._state, shapes, {}, dict.fromkeys(shapes, Copies(0, 1)))

    def close(self) -> None:
        """Take the adapter off the base."""
        self._base.detach(self._trial)

    def _update(self, learning_rate: float) -> float:
        """One update, or none when the gradients are not finite. Returns their norm."""
        parameters = list(self._trained.values())
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients).double())
        if math.isfinite(norm):
            torch.nn.utils.clip_grads_with_norm_(parameters, self._recipe.optimizer.max_grad_norm, torch.tensor(norm))
            set_learning_rate(self._adam, learning_rate)
            self._adam.step()
        self._adam.zero_grad()
        return norm if math.isfinite(norm) else math.inf
