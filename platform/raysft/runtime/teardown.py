"""How Ray Train's controller ends a group of workers: without waiting for one that hangs."""

from __future__ import annotations

from typing import Any

import ray
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.train.v2._internal.execution.worker_group import WorkerGroup

PATIENCE_S = 1.0
"""For an answer of workers at the end. Ray Train waits 5 s for one that never comes, in each restart after a hang."""


class PromptEnd(WorkerGroupCallback):
    """Kills the workers that do not answer for PATIENCE_S. Those that do are left to Ray Train."""

    def before_worker_group_shutdown(self, worker_group: WorkerGroup) -> None:
        workers = worker_group.get_workers()
        answers: list[Any] = [worker.actor.shutdown.remote() for worker in workers]
        _, silent = ray.wait(answers, num_returns=len(answers), timeout=PATIENCE_S)
        for worker, answer in zip(workers, answers, strict=True):
            if answer in silent:
                ray.kill(worker.actor)
