"""Pipeline stages with data parallelism on DeepSpeed as an Engine: ZeRO 0 and 1, fp32 and bf16.

DeepSpeed's pipeline engine runs its 1F1B schedule of forward and backward passes (PipeDream, arXiv:1806.03377) and
moves hidden states and their gradients. The rest is done here after the passes, once for the step: sum of tied
gradients, their mean over replicas, the norm, and one decision of all ranks to update or not.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from functools import partial
from itertools import repeat, starmap
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.pipe import PipelineModule
from deepspeed.runtime.pipe import schedule
from deepspeed.runtime.pipe.topology import PipeDataParallelTopology
from deepspeed.utils import groups
from torch import Tensor, nn

from raysft.engine.adam import AdamState
from raysft.engine.ds_config import REDUCE_BUCKET, deepspeed_config, effective_stage
from raysft.engine.fill import fill
from raysft.engine.hold import Hold
from raysft.engine.parameters import (
    dropout_seed,
    hf_name,
    make_optimizer,
    set_learning_rate,
    set_weights,
    use_no_compiler,
)
from raysft.engine.passes import Passes, Work
from raysft.engine.protocol import StepResult
from raysft.engine.slices import Copies, Saved, Slice, slices, whole
from raysft.engine.step import assemble, assembled_sums, divisors, in_order, step_numbers, vector, weights
from raysft.engine.step_costs import StepWatch
from raysft.engine.together import on_every_rank
from raysft.errors import ModelError
from raysft.model.methods import base_model
from raysft.model.stages import Stage, stage_layers
from raysft.objectives.ahead import Ahead
from raysft.objectives.batch import DeviceBatch, HostBatch, with_step
from raysft.objectives.module import ObjectiveModule
from raysft.objectives.reduce import Sums
from raysft.recipe.layout import Layout
from raysft.recipe.resolve import ResolvedRun

_STAGE_SEEDS = 2**40
"""Distance of the dropout seeds of two stages."""


class PipelineEngine:
    """Engine on deepspeed.PipelineModule. torch.distributed must be initialised. Takes the module apart."""

    def __init__(
        self,
        module: ObjectiveModule,
        run: ResolvedRun,
        device: torch.device,
        restored: Saved | None = None,
    ) -> None:
        self._zero, self._bf16 = effective_stage(run), run.recipe.train.precision == "bf16"
        self._max_grad_norm, self._seed = run.recipe.optimizer.max_grad_norm, run.recipe.seed
        self._layout, self._device = run.layout, device
        self._coordinate = self._layout.coordinate(dist.get_rank())
        self._kept, self._ahead, self.hold = module.kept, Ahead(device), Hold()
        self._objective, self._terms, self._done = module.objective, module.objective.terms, module.done
        names = {p: hf_name(name) for name, p in module.named_parameters()}
        self._shapes = {name: p.shape for p, name in names.items() if p.requires_grad}  # of all stages
        model = base_model(module.model)
        layers = stage_layers(model, self._layout.stages)[self._coordinate.stage]
        self._passes = Passes(Stage(model, layers).to(device), module.objective)
        self._trained = {names[p]: p for p in self._passes.parameters() if p.requires_grad}
        self._holders = self._find_holders()
        self._check_trained()
        if module.unread is not None:
            held = [(names[p], p) for p in self._passes.parameters()]
            fill(held, module.unread, run, restored)
            module.unread.forget()
        if restored is not None:
            on_every_rank(partial(set_weights, self._trained, restored, {}))
        self._adam: torch.optim.Optimizer = make_optimizer(self._passes, self._trained, run)
        self._deepspeed = self._initialize(run)
        self._state = AdamState(self._deepspeed, self._adam, self._trained, self._zero, bf16=self._bf16)
        if restored is not None:
            on_every_rank(partial(self._state.restore, restored, {}))

    def train_step(
        self,
        micro_batches: Sequence[HostBatch],
        units: Mapping[str, float],
        *,
        step: int,
        learning_rate: float,
        aside: Sequence[float] = (),
    ) -> StepResult:
        """See Engine. DeepSpeed averages gradients over replicas, therefore their number in the scale."""
        watch, for_replica = StepWatch(self._device), self._coordinate.counts_for_replica
        totals = self._all_reduced([value * for_replica for value in in_order(self._terms, units)])  # [terms] float64
        scale = self._layout.replicas * weights(self._terms, totals) / divisors(totals)
        set_learning_rate(self._adam, learning_rate)
        seeds = [
            dropout_seed(self._seed, step, batch.index) + self._coordinate.stage * _STAGE_SEEDS
            for batch in micro_batches
        ]
        numbers = step_numbers(self._objective, partial(self._measure, micro_batches, units), self._done(step))
        self._passes.begin(Work(self._given(micro_batches, numbers), scale, seeds))
        self._deepspeed.train()
        self._run(_TrainPasses(len(micro_batches), self._layout.stages, self._coordinate.stage))
        watch.backward_ended()
        self.hold.end()
        grad_norm = self._update()
        tokens = sum(batch.num_tokens for batch in micro_batches) * for_replica
        told, costs, asides = watch.gather(vector(totals, self._passes.sums, self._passes.metrics, tokens), aside)
        reduced, all_tokens = assemble(told, self._objective)
        return StepResult(
            found=reduced,
            tokens=all_tokens,
            grad_norm=grad_norm,
            skipped=not math.isfinite(grad_norm),
            sample_ids=tuple(int(i) for batch in micro_batches for i in batch.sample_ids) if for_replica else (),
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
        """Sums of all ranks, without gradients. numbers: see engine/step.py, step_numbers."""
        ones = torch.ones(len(self._terms), dtype=torch.float64, device=self._device)
        self._passes.begin(Work(self._given(micro_batches, numbers), ones))
        self._deepspeed.eval()
        with torch.no_grad():
            self._run(schedule.InferenceSchedule(len(micro_batches), self._layout.stages, self._coordinate.stage))
        own = [value * self._coordinate.counts_for_replica for value in in_order(self._terms, units)]
        mine = [*own, *self._passes.sums.tolist(), *self._passes.metrics.tolist()]
        return assembled_sums(self._all_reduced(mine).tolist(), self._objective)

    def _given(self, micro_batches: Sequence[HostBatch], numbers: Mapping[str, float]) -> Iterator[DeviceBatch]:
        """The micro-batches on the device. Each stage asks for the next when it is there."""
        return (with_step(batch, numbers, {}) for batch in self._ahead(micro_batches))

    def state(self) -> Iterator[Slice]:
        """See Engine. A tensor that two stages have is the first one's to give."""
        if dist.get_rank() == 0:
            yield whole("adam_step", self._state.num_updates())
            yield from starmap(whole, self._kept.items())
        place = self._coordinate
        alike = Copies(place.replica, self._layout.replicas) if self._state.is_plain else Copies(0, 1)
        mine = [name for name in self._trained if self._holders[name][0] == place.stage]
        shapes = {name: tuple(self._shapes[name]) for name in mine}
        yield from slices(self._state, shapes, {}, dict.fromkeys(mine, alike))

    def close(self) -> None:
        """Free what DeepSpeed holds: hooks, buffers, and the grid that it keeps for the next engine."""
        self._deepspeed.destroy()
        groups.mpu = None

    def _initialize(self, run: ResolvedRun) -> Any:
        """DeepSpeed's engine around the stage of this rank; the others' places are left empty."""
        use_no_compiler()
        deepspeed.init_distributed(dist_init_required=False)  # takes the groups of torch.distributed as they are
        layers: list[nn.Module] = [nn.Identity() for _ in range(self._layout.stages)]
        layers[self._coordinate.stage] = self._passes
        topology = PipeDataParallelTopology(self._layout.stages, self._layout.replicas)
        with redirect_stdout(io.StringIO()):  # it prints its layout
            pipeline = PipelineModule(layers, topology=topology, partition_method="uniform", dynamic_shape=True)
        self._tied = [name for name, holders in self._holders.items() if len(holders) > 1 and name in self._trained]
        self._tied_group = _ends_group(self._layout)
        for name in self._tied:
            tied: Any = self._trained[name]
            tied.ds_pipe_replicated = self._coordinate.stage != self._holders[name][0]
        engine, _, _, _ = deepspeed.initialize(
            model=pipeline, optimizer=self._adam, config=deepspeed_config(run), dist_init_required=False
        )
        engine.set_dataiterator(repeat((torch.zeros(1), torch.zeros(1))))  # the stages look up their own
        return engine

    def _find_holders(self) -> dict[str, list[int]]:
        """{name of a trained parameter: stages that hold it}, in the order of the whole model."""
        held = torch.tensor([name in self._trained for name in self._shapes], dtype=torch.uint8, device=self._device)
        everyone = [torch.zeros_like(held) for _ in range(self._layout.size)]
        dist.all_gather(everyone, held)
        table = torch.stack(everyone[:: self._layout.replicas]).cpu()  # [stages, names]: a column of the grid
        return {name: table[:, i].nonzero().flatten().tolist() for i, name in enumerate(self._shapes)}

    def _check_trained(self) -> None:
        """Raises ModelError, on every rank."""
        busy = {stage for holders in self._holders.values() for stage in holders}
        if idle := sorted(set(range(self._layout.stages)) - busy):
            raise ModelError(
                "a pipeline stage has nothing to train",
                got=f"frozen: all layers of stage {', '.join(map(str, idle))} of {self._layout.stages}",
                expected="a trained parameter on every stage",
                fix="set parallel.pipeline: 1, or train a parameter of every layer",
            )

    def _run(self, passes: schedule.PipeSchedule) -> None:
        """What train_batch and eval_batch do, without their update and their numbers."""
        engine = self._deepspeed
        engine.total_loss, engine.total_additional_losses, engine._compute_loss = None, None, True
        engine._exec_schedule(passes)

    def _update(self) -> float:
        """One optimizer update, or none when the gradients are not finite. Returns their norm.

        As in the ZeRO engine only fp32 ZeRO 1 decides by itself, over all stages and replicas.
        """
        engine, zero = self._deepspeed, self._deepspeed.optimizer
        for name in self._tied:
            gradient = vars(self._trained[name])["_hp_grad"] if self._bf16 else self._trained[name].grad
            dist.all_reduce(gradient, group=self._tied_group)
        self._reduce_gradients()
        if self._zero == 1 and not self._bf16:
            engine._exec_optimizer_step()
            return math.inf if zero.overflow else float(zero._global_grad_norm)
        norm = self._norm(zero.get_grads_for_norm()[0] if self._bf16 else self._owned_gradients())
        if not math.isfinite(norm):
            (zero if self._bf16 else engine).zero_grad()
            return math.inf
        if not self._bf16:
            torch.nn.utils.clip_grads_with_norm_(self._trained.values(), self._max_grad_norm, torch.tensor(norm))
        engine._exec_optimizer_step()
        return norm

    def _reduce_gradients(self) -> None:
        """What DeepSpeed's _exec_reduce_grads does, which would copy 2 GB of the gradients at a time."""
        engine = self._deepspeed
        engine._force_grad_boundary = True
        if self._bf16:
            engine.buffered_allreduce_fallback(elements_per_buffer=REDUCE_BUCKET)
        else:
            engine.allreduce_gradients(bucket_size=REDUCE_BUCKET)
        engine._force_grad_boundary = False

    def _owned_gradients(self) -> list[Tensor]:
        """Each gradient of the model on one stage only."""
        owned = [p for name, p in self._trained.items() if self._holders[name][0] == self._coordinate.stage]
        return [p.grad for p in owned if p.grad is not None]

    def _norm(self, gradients: list[Tensor]) -> float:
        """L2 norm over all stages: the same on every rank."""
        local = float(torch.nn.utils.get_total_norm(gradients)) ** 2 / self._layout.replicas
        return math.sqrt(float(self._all_reduced([local])[0]))

    def _all_reduced(self, values: list[float]) -> Tensor:
        """Sum over all ranks, float64, on the device."""
        total = torch.tensor(values, dtype=torch.float64, device=self._device)
        dist.all_reduce(total)
        return total


class _TrainPasses(schedule.TrainSchedule):  # type: ignore[misc]
    """1F1B without what follows the passes."""

    def steps(self) -> Iterator[list[Any]]:
        """Commands of each moment."""
        after = (schedule.ReduceTiedGrads, schedule.ReduceGrads, schedule.OptimizerStep)
        for commands in super().steps():
            yield [command for command in commands if not isinstance(command, after)]


def _ends_group(layout: Layout) -> Any:
    """First and last stage of this rank's replica. Every rank makes every group."""
    ends = [[ranks[0], ranks[-1]] for ranks in layout.groups("stage")]
    made = [(ranks, dist.new_group(ranks)) for ranks in ends]
    return next((group for ranks, group in made if dist.get_rank() in ranks), None)
