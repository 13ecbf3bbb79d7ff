"""Trials in threads of one process that go through the model together: the rendezvous, and the pass of all of them.

One thread runs at a time: it has the word until it waits for the others, so that code which was written for a
process of its own (global random state, process groups) needs no care. When every member has asked for a pass or
has left, the last one runs a single pass over all rows and hands out what it gave.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

from raysft.errors import TrainingError
from raysft.model.fast.loss import output_head
from raysft.model.fast.shared_base import SharedBase, TrialRows
from raysft.objectives.batch import HostBatch, in_one_row, on_device
from raysft.objectives.objective import Loss, Objective
from raysft.objectives.view import View

logger = logging.getLogger(__name__)


@dataclass
class TrialPass:
    """A trial's micro-batch, and then what became of it."""

    trial: int
    batch: HostBatch
    objective: Objective
    shares: Mapping[str, float]
    """{term: what its sum is divided by before backward} (engine/step.py). Empty: no backward."""
    parameters: Sequence[nn.Parameter] = ()
    """The trial's parameters; their gradients are added up."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """What the loss reads of the trial's global step (engine/step.py, step_numbers)."""
    seed: int | None = None
    """Seed of the trial's dropout; None: evaluation."""
    loss: Loss | None = None
    """The micro-batch's loss, when it is done."""
    error: Exception | None = None
    """Why it could not be done."""


class Rendezvous:
    """Members run one at a time, and their training passes together."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._baton = threading.Condition()
        self._mutex = threading.Lock()  # members are counted while another holds the baton
        self._members: set[int] = set()
        self._shares: dict[int, float] = {}
        self._shared_at = time.monotonic()
        self._waiting: dict[int, TrialPass] = {}
        self._base: tuple[Hashable, SharedBase] | None = None
        self._most_tokens: int | None = None
        """Tokens that a pass may have, since more did not fit into memory; None: any number."""
        self.num_passes = 0
        """Passes done, of several trials together or of one that is alone."""

    @contextmanager
    def member(self, trial: int) -> Iterator[None]:
        """Inside, this thread is a trial: the others wait for it at every pass. Leaving frees its place."""
        with self._mutex:
            self._share_out()
            self._members.add(trial)
        with self._baton:
            try:
                yield
            finally:
                with self._mutex:
                    self._share_out()
                    self._members.discard(trial)
                if self._base is not None:
                    self._base[1].detach(trial)
                self._run_when_complete()

    def share_s(self, trial: int) -> float:
        """Seconds that a trial was a member for, each divided by the members there were."""
        with self._mutex:
            self._share_out()
            return self._shares.get(trial, 0.0)

    def base(self, identity: Hashable, load: Callable[[], SharedBase]) -> SharedBase:
        """The model that all share, loaded by the first. identity: what another model would differ in."""
        if self._base is None:
            self._base = (identity, load())
        if self._base[0] != identity:
            raise TrainingError(
                "trials of one process share one base model",
                got="a trial with another model, precision or packing",
                expected="trials that differ in optimizer, adapters, batch size and seed only",
                fix="set tune.executor: separate",
            )
        return self._base[1]

    def train(self, wanted: TrialPass, timeout_s: float) -> Loss:
        """Forward and backward of a micro-batch, with those of all other members. Gradients are added up.

        Raises what the pass raised for this trial, and TrainingError when a member does not come within timeout_s.
        """
        self._waiting[wanted.trial] = wanted
        self._run_when_complete()
        over = self._baton.wait_for(lambda: wanted.loss is not None or wanted.error is not None, timeout_s)
        if not over:
            del self._waiting[wanted.trial]
            raise TrainingError(
                "the other trials of this process did not come to the next pass",
                got=f"members {sorted(self._members)}, waiting {sorted(self._waiting)} after {timeout_s:g} s",
                expected="a pass of every trial within cluster.hang_timeout_s",
                fix="look at the trial that is missing; a run goes on from its last commit",
            )
        return _answer(wanted)

    def evaluate(self, wanted: TrialPass) -> Loss:
        """Forward of a micro-batch, alone and at once: nobody is waited for."""
        with torch.no_grad():
            self._try([wanted])
        return _answer(wanted)

    def _share_out(self) -> None:
        now = time.monotonic()
        for trial in self._members:
            share = (now - self._shared_at) / len(self._members)
            self._shares[trial] = self._shares.get(trial, 0.0) + share
        self._shared_at = now

    def _run_when_complete(self) -> None:
        """Called by whoever holds the baton, when a member asks or leaves."""
        with self._mutex:
            missing = self._members - self._waiting.keys()
        if missing or not self._waiting:
            return
        passes = [self._waiting.pop(trial) for trial in sorted(self._waiting)]
        for group in _groups(passes, self._most_tokens):
            self._try(group)
        self._baton.notify_all()

    def _try(self, passes: Sequence[TrialPass]) -> None:
        """A pass that fails is tried in halves, so that only the trials that cause an error get it."""
        try:
            self._run(passes)
        except Exception as error:  # boundary between trials: each gets its own, and raises it
            if len(passes) == 1:
                passes[0].error = error
                return
            if isinstance(error, MemoryError | torch.OutOfMemoryError) or "memory" in str(error):
                self._most_tokens = sum(one.batch.input_ids.size for one in passes) // 2
                logger.warning("a pass of %d trials does not fit into memory: halved", len(passes))
            half = len(passes) // 2
        else:
            return
        self._try(passes[:half])
        self._try(passes[half:])

    def _run(self, passes: Sequence[TrialPass]) -> None:
        """Nothing is changed unless all of it succeeds."""
        assert self._base is not None
        base = self._base[1]
        objective = passes[0].objective  # that of the search
        given = [on_device(one.batch, self._device, one.numbers) for one in passes]
        pieces = [
            TrialRows(
                one.trial,
                batch.input_ids,
                batch.position_ids,
                batch.known.borders,
                _generator(one.seed, self._device),
            )
            for one, batch in zip(passes, given, strict=True)
        ]
        hidden = torch.cat([part.flatten(0, 1) for part in base.hidden(pieces)]).unsqueeze(0)
        batch, extents = in_one_row(given, objective.batch_columns)
        found = objective.loss(View(hidden, output_head(base.model), batch, trials=extents), batch)  # [trials]
        weight = {term.name: term.weight for term in objective.terms}
        losses = [
            found.sums[name][i] / share * weight[name]
            for i, one in enumerate(passes)
            for name, share in one.shares.items()
        ]
        if losses:
            parameters = [parameter for one in passes for parameter in one.parameters]
            gradients = torch.autograd.grad(torch.stack(losses).sum(), parameters, allow_unused=True)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        for i, one in enumerate(passes):
            one.loss = Loss(
                {name: sums[i].detach() for name, sums in found.sums.items()},
                {name: (sums[i], counts[i]) for name, (sums, counts) in found.metrics.items()},
                counts=None if found.counts is None else found.counts[i],
            )
        self.num_passes += 1


def _generator(seed: int | None, device: torch.device) -> torch.Generator | None:
    return None if seed is None else torch.Generator(device).manual_seed(seed)


def _groups(passes: Sequence[TrialPass], most_tokens: int | None) -> list[list[TrialPass]]:
    """In their order, no more tokens together than were found to fit (a single one may have more)."""
    groups: list[list[TrialPass]] = []
    tokens = 0
    for one in passes:
        size = one.batch.input_ids.size
        if not groups or (most_tokens is not None and tokens + size > most_tokens):
            groups.append([])
            tokens = 0
        groups[-1].append(one)
        tokens += size
    return groups


def _answer(done: TrialPass) -> Loss:
    if done.error is not None:
        raise done.error
    assert done.loss is not None
    return done.loss
