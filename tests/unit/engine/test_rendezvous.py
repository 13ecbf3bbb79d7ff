"""The rendezvous of trials in threads: who is waited for, whose error it is, passes that are too large."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from raysft.engine.rendezvous import Rendezvous, TrialPass
from raysft.errors import TrainingError
from raysft.objectives.objective import Loss


@dataclass
class Rows:
    """A micro-batch of so many tokens."""

    input_ids: np.ndarray


def a_pass(trial: int, tokens: int = 10) -> TrialPass:
    rows: Any = Rows(np.zeros((1, tokens), np.int64))
    nothing: Any = None
    return TrialPass(trial, rows, nothing, shares={"nll": 1.0})


class Scripted(Rendezvous):
    """Passes of more tokens than there is room for fail, and so do those of a trial that is ill."""

    def __init__(self, room: int = 10**6, ill: int = -1) -> None:
        super().__init__(torch.device("cpu"))
        self.room, self.ill = room, ill
        self.tried: list[list[int]] = []

    def _run(self, passes: Sequence[TrialPass]) -> None:
        self.tried.append([one.trial for one in passes])
        if self.ill in self.tried[-1]:
            raise ValueError("ill")
        if sum(one.batch.input_ids.size for one in passes) > self.room:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        for one in passes:
            one.loss = Loss({"nll": torch.tensor(float(one.trial))})


def together(rendezvous: Rendezvous, passes: dict[int, int], timeout_s: float = 5.0) -> dict[int, list[Any]]:
    """Trials in threads, each with so many passes; what each got."""
    got: dict[int, list[Any]] = {trial: [] for trial in passes}
    ready = threading.Barrier(len(passes))

    def work(trial: int) -> None:
        ready.wait()
        with rendezvous.member(trial):
            for _ in range(passes[trial]):
                try:
                    got[trial].append(float(rendezvous.train(a_pass(trial), timeout_s).sums["nll"]))
                except Exception as error:
                    got[trial].append(error)

    threads = [threading.Thread(target=work, args=(trial,), daemon=True) for trial in passes]
    with rendezvous._baton:  # all have come before one of them runs
        for thread in threads:
            thread.start()
        while len(rendezvous._members) < len(passes):
            pass
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    return got


def test_all_members_go_together_and_one_that_leaves_is_not_waited_for() -> None:
    rendezvous = Scripted()
    assert together(rendezvous, {0: 3, 1: 1, 2: 3}) == {0: [0.0] * 3, 1: [1.0], 2: [2.0] * 3}
    assert rendezvous.tried == [[0, 1, 2], [0, 2], [0, 2]]
    assert rendezvous._members == set()


def test_an_error_reaches_only_the_trial_that_causes_it() -> None:
    rendezvous = Scripted(ill=1)
    got = together(rendezvous, {0: 1, 1: 1, 2: 1, 3: 1})
    assert [got[trial] for trial in (0, 2, 3)] == [[0.0], [2.0], [3.0]]
    assert isinstance(got[1][0], ValueError)
    assert rendezvous._most_tokens is None


def test_a_pass_that_does_not_fit_is_halved_from_then_on() -> None:
    rendezvous = Scripted(room=20)
    assert together(rendezvous, dict.fromkeys(range(4), 2)) == {t: [float(t)] * 2 for t in range(4)}
    assert rendezvous.tried == [[0, 1, 2, 3], [0, 1], [2, 3], [0, 1], [2, 3]]


def test_a_trial_that_never_comes_is_not_waited_for_without_end() -> None:
    rendezvous, leave = Scripted(), threading.Event()

    def idle() -> None:
        with rendezvous.member(1), rendezvous._baton:
            rendezvous._baton.wait_for(leave.is_set, 5)

    thread = threading.Thread(target=idle, daemon=True)
    thread.start()
    while 1 not in rendezvous._members:
        pass
    with rendezvous.member(0), pytest.raises(TrainingError, match=r"members \[0, 1\]"):
        rendezvous.train(a_pass(0), timeout_s=0.05)
    leave.set()
    with rendezvous._baton:
        rendezvous._baton.notify_all()
    thread.join(5)


def test_time_is_shared_out_among_the_members() -> None:
    rendezvous = Scripted()
    together(rendezvous, {0: 50, 1: 50})
    shares = [rendezvous.share_s(trial) for trial in (0, 1)]
    assert min(shares) > 0
    assert rendezvous.share_s(2) == 0
