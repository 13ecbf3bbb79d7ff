"""ZeRO 0-3 on DeepSpeed as an Engine.

Loss scale: DeepSpeed averages gradients over replicas and the parts of their rows, so each micro-batch's sum is
multiplied by their number and divided by the units of the WHOLE global step. Accumulation borders are set by hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import starmap

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor, nn

from raysft.engine.adam import AdamState
from raysft.engine.ds_config import REDUCE_BUCKET, deepspeed_config, effective_stage, keeps_bf16_apart
from raysft.engine.fill import fill, partition, working_dtype
from raysft.engine.hold import Hold
from raysft.engine.muon import Orthogonaliser
from raysft.engine.parameters import (
    dropout_seed,
    hf_name,
    make_optimizer,
    set_learning_rate,
    set_weights,
    use_no_compiler,
)
from raysft.engine.protocol import StepResult
from raysft.engine.slices import Copies, Saved, Slice, slices, whole
from raysft.engine.step import (
    Stacked,
    assemble,
    assembled_sums,
    divisors,
    in_order,
    metric_width,
    stacked,
    step_numbers,
    vector,
    weights,
)
from raysft.engine.step_costs import StepWatch
from raysft.engine.tensor import WHOLE, Shards
from raysft.engine.together import on_every_rank
from raysft.engine.whole_step import Columns, step_columns
from raysft.objectives.ahead import Ahead
from raysft.objectives.batch import DeviceBatch, HostBatch, with_step
from raysft.objectives.module import ObjectiveModule
from raysft.objectives.objective import Loss
from raysft.objectives.reduce import Sums
from raysft.recipe.resolve import ResolvedRun

_PART_SEEDS = 2**40
"""Distance of the dropout seeds of two parts of a row."""


class ZeroEngine:
    """Engine on deepspeed.initialize. torch.distributed must be initialised."""

    def __init__(
        self,
        module: ObjectiveModule,
        run: ResolvedRun,
        device: torch.device,
        restored: Saved | None = None,
        shards: Shards = WHOLE,
    ) -> None:
        """shards: how the module's parameters are cut."""
        self._shards, self._objective, self._terms = shards, module.objective, module.objective.terms
        self._done = module.done
        self._stage, self._bf16 = effective_stage(run), keeps_bf16_apart(run)
        self._max_grad_norm, self._seed = run.recipe.optimizer.max_grad_norm, run.recipe.seed
        self._layout, self._device = run.layout, device
        self._coordinate = run.layout.coordinate(dist.get_rank())
        self._ahead, self.hold = Ahead(device, (self._coordinate.sequence, run.layout.sequence)), Hold()
        self._num_parts = run.layout.replicas * run.layout.sequence
        self._trained = {hf_name(name): p for name, p in module.named_parameters() if p.requires_grad}
        self._shapes = {name: tuple(p.shape) for name, p in self._trained.items()}  # before ZeRO 3 empties them
        optimizer = make_optimizer(module, self._trained, run)
        self._matrices = Orthogonaliser(optimizer, self._trained, working_dtype(run))
        use_no_compiler()
        _get_weights(module, self._trained, run, device, restored, shards)
        self._deepspeed, _, _, _ = deepspeed.initialize(
            model=module, optimizer=optimizer, config=deepspeed_config(run), dist_init_required=False
        )
        self._sums_at_the_end = self._stage == 0 or (self._stage == 1 and self._bf16)
        if self._sums_at_the_end:  # backward() would do it, with a copy of 2 GB of the gradients
            self._deepspeed.enable_backward_allreduce = False
        self._adam: torch.optim.Optimizer = optimizer
        self._state = AdamState(self._deepspeed, optimizer, self._trained, self._stage, bf16=self._bf16)
        self._acts, self._kept, self._ask = module.acts, module.kept, module.ask
        if restored is not None:
            on_every_rank(partial(self._restore, restored))

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
        watch, for_replica = StepWatch(self._device), self._coordinate.counts_for_replica
        totals = self._all_reduced([value * for_replica for value in in_order(self._terms, units)])  # [terms] float64
        shares, weighed = divisors(totals), weights(self._terms, totals)
        set_learning_rate(self._adam, learning_rate)
        numbers = step_numbers(self._objective, partial(self._measure, micro_batches, units), self._done(step))
        self._deepspeed.train()
        columns = self._compared(micro_batches, numbers, partial(self._seed_dropout, step))
        counts = self._coordinate.tensor == 0  # tensor-parallel ranks all know the sums
        sums, metrics = torch.zeros_like(totals), totals.new_zeros(metric_width(self._objective))
        there = self._ahead(micro_batches)
        for number, (batch, on_device) in enumerate(zip(micro_batches, there, strict=True)):
            self._deepspeed.set_gradient_accumulation_boundary(number == len(micro_batches) - 1)
            self._seed_dropout(step, batch)
            with watch.forward():
                found = self._pass(on_device, numbers, columns[number])
            shared = found.sums / shares.to(found.sums.dtype) * weighed.to(found.sums.dtype)
            self._deepspeed.backward(shared.sum() * self._num_parts)
            sums += found.sums.detach() * counts
            metrics += found.metrics * counts
        if self._sums_at_the_end:
            self._deepspeed.allreduce_gradients(bucket_size=REDUCE_BUCKET)
        watch.backward_ended()
        self.hold.end()
        if self._acts is not None:
            self._acts.before_update(step, self._state)
        grad_norm = self._update()
        moved = self._matrices.finish(self._state) if math.isfinite(grad_norm) else 0
        if self._acts is not None and math.isfinite(grad_norm):
            self._acts.after_update(step, self._state)
        tokens = sum(batch.num_tokens for batch in micro_batches) * for_replica
        told, costs, asides = watch.gather(vector(totals, sums, metrics, tokens), aside)
        reduced, all_tokens = assemble(told, self._objective)
        return StepResult(
            found=reduced,
            tokens=all_tokens,
            grad_norm=grad_norm,
            skipped=not math.isfinite(grad_norm),
            sample_ids=tuple(int(i) for batch in micro_batches for i in batch.sample_ids) if for_replica else (),
            costs=costs,
            asides=asides,
            orthogonalised=moved,
        )

    def eval_step(self, micro_batches: Sequence[HostBatch], units: Mapping[str, float]) -> Sums:
        """See Engine."""
        measure = partial(self._measure, micro_batches, units)
        return measure(step_numbers(self._objective, measure))

    def _measure(
        self, micro_batches: Sequence[HostBatch], units: Mapping[str, float], numbers: Mapping[str, float]
    ) -> Sums:
        """Sums of all ranks, without gradients. numbers: see engine/step.py, step_numbers."""
        self._deepspeed.eval()
        columns = self._compared(micro_batches, numbers)
        width = len(self._terms) + metric_width(self._objective)
        sums = torch.zeros(width, dtype=torch.float64, device=self._device)
        with torch.no_grad():
            for batch, found_of_step in zip(self._ahead(micro_batches), columns, strict=True):
                found = self._pass(batch, numbers, found_of_step)
                sums += torch.cat([found.sums, found.metrics])
        sums *= self._coordinate.tensor == 0
        own = [value * self._coordinate.counts_for_replica for value in in_order(self._terms, units)]
        return assembled_sums(self._sum([*own, *sums.tolist()]), self._objective)

    def _pass(self, batch: DeviceBatch, numbers: Mapping[str, float], columns: Columns) -> Stacked:
        """One forward pass."""
        return stacked(self._loss(batch, numbers, columns), self._objective)

    def _loss(self, batch: DeviceBatch, numbers: Mapping[str, float], columns: Columns) -> Loss:
        live = {} if self._ask is None else self._ask(batch)
        given = with_step(batch, numbers, {**columns, **live}).flat(self._objective.batch_columns)
        found: Loss = self._deepspeed(*given)
        return found

    def _compared(
        self,
        micro_batches: Sequence[HostBatch],
        numbers: Mapping[str, float],
        begin: Callable[[HostBatch], None] | None = None,
    ) -> list[Columns]:
        """What each micro-batch gets of the whole step (whole_step.py). begin: called before each pass of training;
        None: it is an evaluation."""

        there = self._ahead(micro_batches)

        def vectors(batch: HostBatch, zeros: Columns) -> Tensor:
            if begin is not None:
                begin(batch)
            found = self._loss(next(there), numbers, zeros).vectors
            assert found is not None, "an objective that compares a step gives vectors"
            return found

        place = self._coordinate
        return step_columns(
            self._objective,
            micro_batches,
            vectors,
            place.replica,
            counts=bool(place.counts_for_replica),
            evaluates=begin is None,
            device=self._device,
        )

    def _seed_dropout(self, step: int, batch: HostBatch) -> None:
        torch.manual_seed(dropout_seed(self._seed, step, batch.index) + self._coordinate.sequence * _PART_SEEDS)

    def state(self) -> Iterator[Slice]:
        """See Engine."""
        place, layout = self._coordinate, self._layout
        if dist.get_rank() == 0:
            yield whole("adam_step", self._state.num_updates())
            yield from starmap(whole, self._kept.items())
            yield from starmap(whole, self._state.further.items())
            if self._acts is not None:
                yield from starmap(whole, self._acts.state())
        alike = Copies(0, 1)  # who hold the same shard; from ZeRO 1 on each has a range of its own
        if self._state.is_plain:
            alike = Copies(place.replica, layout.replicas).times(place.sequence, layout.sequence)
        shards = self._shards
        shapes = {name: shards.shapes.get(name, self._shapes[name]) for name in self._trained}
        copies = {n: alike if n in shards.cuts else alike.times(place.tensor, layout.tensor) for n in self._trained}
        yield from slices(self._state, shapes, shards.cuts, copies)

    def _restore(self, restored: Saved) -> None:
        self._state.restore(restored, self._shards.cuts)
        if self._acts is not None:
            self._acts.restore(restored.whole)

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


def _get_weights(
    module: ObjectiveModule,
    trained: Mapping[str, nn.Parameter],
    run: ResolvedRun,
    device: torch.device,
    restored: Saved | None,
    shards: Shards,
) -> None:
    """Weights as DeepSpeed is to find them: restored ones, and those that are still to be read. Collective."""
    unread = module.unread
    placeholders = unread is not None and effective_stage(run) == 3
    if unread is not None and not placeholders:
        named = [(hf_name(name), parameter) for name, parameter in module.named_parameters()]
        fill(named, unread, run, restored, shards.rank)
    if restored is not None:
        there = {name: p for name, p in trained.items() if not placeholders or unread is None or p not in unread}
        on_every_rank(partial(set_weights, there, restored, shards.cuts))
    if unread is not None and placeholders:
        partition(module, unread, run, device, restored)
    assert unread is None or not len(unread), "a parameter of the model is in no module"
