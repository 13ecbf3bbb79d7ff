"""The rendezvous of trials in threads: who is waited for, whose error it is, passes that are too large."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from raysft.engine.rendezvous import Gang, Pass
from raysft.errors import TrainingError
from raysft.objectives.objective import Loss


@dataclass
class Rows:
    """A micro-batch of so many tokens."""

    input_ids: np.ndarray


def a_pass(trial: int, tokens: int = 10) -> Pass:
    rows: Any = Rows(np.zeros((1, tokens), np.int64))
    nothing: Any = None
    return Pass(trial, rows, nothing, shares={"nll": 1.0})


class Scripted(Gang):
    """Passes of more tokens than there is room for fail, and so do those of a trial that is ill."""

    def __init__(self, room: int = 10**6, ill: int = -1) -> None:
        super().__init__(torch.device("cpu"))
        self.room, self.ill = room, ill
        self.tried: list[list[int]] = []

    def _run(self, passes: Sequence[Pass]) -> None:
        self.tried.append([one.trial for one in passes])
        if self.ill in self.tried[-1]:
            raise ValueError("ill")
        if sum(one.batch.input_ids.size for one in passes) > self.room:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        for one in passes:
            one.loss = Loss({"nll": torch.tensor(float(one.trial))})


def together(gang: Gang, passes: dict[int, int], timeout_s: float = 5.0) -> dict[int, list[Any]]:
    """Trials in threads, each with so many passes; what each got."""
    got: dict[int, list[Any]] = {trial: [] for trial in passes}
    ready = threading.Barrier(len(passes))

    def work(trial: int) -> None:
        ready.wait()
        with gang.member(trial):
            for _ in range(passes[trial]):
                try:
                    got[trial].append(float(gang.train(a_pass(trial), timeout_s).sums["nll"]))
                except Exception as error:
                    got[trial].append(error)

    threads = [threading.Thread(target=work, args=(trial,), daemon=True) for trial in passes]
    with gang._baton:  # all have come before one of them runs
        for thread in threads:
            thread.start()
        while len(gang._members) < len(passes):
            pass
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    return got


def test_all_members_go_together_and_one_that_leaves_is_not_waited_for() -> None:
    gang = Scripted()
    assert together(gang, {0: 3, 1: 1, 2: 3}) == {0: [0.0] * 3, 1: [1.0], 2: [2.0] * 3}
    assert gang.tried == [[0, 1, 2], [0, 2], [0, 2]]
    assert gang._members == set()


def test_an_error_reaches_only_the_trial_that_causes_it() -> None:
    gang = Scripted(ill=1)
    got = together(gang, {0: 1, 1: 1, 2: 1, 3: 1})
    assert [got[trial] for trial in (0, 2, 3)] == [[0.0], [2.0], [3.0]]
    assert isinstance(got[1][0], ValueError)
    assert gang._most_tokens is None


def test_a_pass_that_does_not_fit_is_halved_from_then_on() -> None:
    gang = Scripted(room=20)
    assert together(gang, dict.fromkeys(range(4), 2)) == {t: [float(t)] * 2 for t in range(4)}
    assert gang.tried == [[0, 1, 2, 3], [0, 1], [2, 3], [0, 1], [2, 3]]


def test_a_trial_that_never_comes_is_not_waited_for_without_end() -> None:
    gang, leave = Scripted(), threading.Event()

    def idle() -> None:
        with gang.member(1), gang._baton:
            gang._baton.wait_for(leave.is_set, 5)

    thread = threading.Thread(target=idle, daemon=True)
    thread.start()
    while 1 not in gang._members:
        pass
    with gang.member(0), pytest.raises(TrainingError, match=r"members \[0, 1\]"):
        gang.train(a_pass(0), timeout_s=0.05)
    leave.set()
    with gang._baton:
        gang._baton.notify_all()
    thread.join(5)


def test_time_is_shared_out_among_the_members() -> None:
    gang = Scripted()
    together(gang, {0: 50, 1: 50})
    shares = [gang.share_s(trial) for trial in (0, 1)]
    assert min(shares) > 0
    assert gang.share_s(2) == 0
