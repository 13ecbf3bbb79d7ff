"""What one attempt asks of Ray Train: so many workers, no retry of Ray's, every process made by the fork server."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import ray
from ray._raylet import RAY_NODE_ID_KEY
from ray.train.torch import TorchConfig
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.constants import get_env_vars_to_propagate
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.torch.torch_trainer import TorchTrainer

from raysft import storage
from raysft.recipe.schema import Recipe
from raysft.runtime.demand import not_on
from raysft.runtime.join import worker_runtime
from raysft.runtime.teardown import PromptEnd
from raysft.runtime.whole_nodes import node_selectors
from raysft.train.worker_input import AttemptInput

COLLECTIVE_TIMEOUT_S = 1800


NOT_NEEDED = (DatasetsCallback, PlacementGroupCleanerCallback)
"""An actor each: for `datasets=`, which raysft's workers do not take, and for what free_reservations() does."""


class ForkedTrainer(TorchTrainer):
    """Ray's, but its controller and the actors that this one starts have the workers' runtime environment.

    Each would import for 2 to 3 s of CPU. Ray Train 2.60 gives no other way to say it. Two actors are left out:
    each one that idles wakes 150 times a second, 0.7% of a core.
    """

    def _create_default_callbacks(self) -> list[Any]:
        defaults = super()._create_default_callbacks()
        return [*(each for each in defaults if not isinstance(each, NOT_NEEDED)), PromptEnd()]

    def _initialize_and_run_controller(self, **parts: Any) -> Any:
        settings: Any = self.run_config
        runtime: dict[str, Any] = settings.worker_runtime_env
        controller: Any = ray.remote(
            num_cpus=0,
            label_selector={RAY_NODE_ID_KEY: ray.get_runtime_context().get_node_id()},
            runtime_env={**runtime, "env_vars": runtime["env_vars"] | get_env_vars_to_propagate()},
        )(TrainController)
        running = controller.remote(**parts)
        ray.get(running.run.remote())
        return ray.get(running.get_result.remote())


def trainer(
    run: str,
    recipe: Recipe,
    attempt: AttemptInput,
    work: Callable[[dict[str, Any]], dict[str, Any]],
    *,
    left_out: Sequence[str] = (),
) -> ForkedTrainer:
    """One attempt of a run, in which each worker does work(attempt). left_out: ids of nodes that are not used."""
    wanted = recipe.cluster
    reserved = {"CPU": float(wanted.cpus_per_worker)}
    if wanted.gpus_per_worker:
        reserved["GPU"] = float(wanted.gpus_per_worker)
    return ForkedTrainer(
        work,
        train_loop_config=asdict(attempt),
        torch_config=TorchConfig(
            backend="nccl" if wanted.gpus_per_worker else "gloo", timeout_s=COLLECTIVE_TIMEOUT_S
        ),
        scaling_config=ScalingConfig(
            num_workers=wanted.workers,
            use_gpu=wanted.gpus_per_worker > 0,
            resources_per_worker=reserved,
            label_selector=node_selectors(reserved, wanted.workers, left_out) or not_on(left_out) or None,
        ),
        run_config=RunConfig(
            name=f"fit-{time.time_ns()}",  # a name that was used would have Ray restore that state of its own
            storage_path=storage.join(run, "ray"),
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=0, max_preemption_failures=0),
            worker_runtime_env=worker_runtime(wanted),
        ),
    )
