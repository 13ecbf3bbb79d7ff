"""Hosts: processes on the cluster in which several trials of a search train together on one base model.

A host reserves what the one worker of a trial would, and is started again by Ray when it dies; its trials are lost
then and go on from their checkpoints, as any lost trial does.
"""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import ray
import torch

from raysft.recipe.load import parse_recipe
from raysft.recipe.schema import Recipe
from raysft.run.run import train_trial
from raysft.run.rundir import run_location
from raysft.search.in_process import run_here
from raysft.search.shared_trial import HostActor
from raysft.search.trial_stream import TrialStream
from raysft.train.shared_trials import SharedTrials
from raysft.train.watch import stop_requests

ALLOCATOR_VARIABLES = {
    "MALLOC_ARENA_MAX": "1",  # else freed memory stays with each thread, and any of them may run the pass of all
    "MALLOC_TRIM_THRESHOLD_": str(2**32),  # a pass uses again what the last one freed,
    "MALLOC_MMAP_THRESHOLD_": str(2**25),  # without asking the kernel for zeroed pages (5% of the time)
}
"""How glibc's allocator suits many threads of which one runs."""


class Host:
    """What a process of its own holds."""

    def __init__(self, gpus: int) -> None:
        self._trials = SharedTrials(torch.device("cuda" if gpus else "cpu"))
        self._trained: defaultdict[int, threading.Lock] = defaultdict(threading.Lock)
        self._newest: defaultdict[int, int] = defaultdict(int)
        self._begun: dict[int, TrialStream] = {}
        self._mutex = threading.Lock()

    def begin(self, config: dict[str, Any]) -> None:
        """Train a trial with the others. Once for each config["order"], which grows."""
        with self._mutex:
            if config["order"] > self._newest[config["number"]]:
                self._begun[config["number"]] = self._train(config)
                self._newest[config["number"]] = config["order"]  # now: what fails is follow()'s to say

    def follow(self, config: dict[str, Any], metrics: list[str]) -> Iterator[str]:
        """What TrialStream.messages() says of a trial, which begins now unless it has begun."""
        self.begin(config)
        yield from self._begun[config["number"]].messages(metrics)

    def _train(self, config: dict[str, Any]) -> TrialStream:
        number, recipe = config["number"], parse_recipe(json.loads(config["recipe"]))

        def train(recipe: Recipe, planned: Callable[[int], None]) -> str:
            with self._trained[number], self._trials.member(number):
                attempts = partial(run_here, train=partial(self._trials.train, number))
                return train_trial(recipe, planned, attempts, config["pause_step"])

        if self._trained[number].locked():  # its listener died, and it is started again
            stop_requests.request(run_location(recipe), stop_requests.Notice.STOP)
        before = self._trials.share_s(number)
        return TrialStream(recipe, train, lambda: self._trials.share_s(number) - before)


@contextmanager
def shared_hosts(recipe: Recipe, count: int, concurrent: int, runtime: dict[str, Any]) -> Iterator[list[Any]]:
    """Handles of `count` hosts that live as long as the block. concurrent: trials at a time, over all of them.

    runtime: Ray's runtime environment of theirs.
    """
    wanted = recipe.cluster
    actor: Any = ray.remote(HostActor).options(
        num_cpus=wanted.cpus_per_worker,
        num_gpus=wanted.gpus_per_worker,
        max_concurrency=2 * concurrent,  # a trial whose listener died may still be ending
        max_restarts=-1,
        runtime_env=runtime,
    )
    handles = [actor.remote(partial(Host, wanted.gpus_per_worker)) for _ in range(count)]
    try:
        yield handles
    finally:
        for handle in handles:
            ray.kill(handle)
