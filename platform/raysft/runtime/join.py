"""The Ray cluster a run stands on: joining or starting it, its facts, tasks on it."""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import ray
from ray.core.generated.gcs_pb2 import PlacementGroupTableData
from ray.exceptions import RayTaskError
from ray.util.placement_group import PlacementGroup, remove_placement_group

from raysft.data.on_ray import raised_in_task
from raysft.errors import ClusterError
from raysft.recipe.facts import ClusterFacts, NodeFacts
from raysft.recipe.sections.cluster import ClusterSection
from raysft.runtime import demand, fork_client
from raysft.runtime.head_watch import watching

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

CONNECT_TIMEOUT_S = 10
ANSWER_TIMEOUT_S = 2

FORWARDED_VARIABLES = ("HF_HOME", "HF_HUB_OFFLINE", "AWS_REGION", "AWS_ENDPOINT_URL")
"""Variables that workers get from the driver, besides FORWARDED_PREFIXES. Nothing else is copied, and no secret: Ray
shows a runtime environment in its dashboard and logs. Give nodes their credentials (HF_TOKEN, AWS keys) when they
start."""


FORWARDED_PREFIXES = ("NCCL_", "GLOO_", "TORCH_", "PYTORCH_", "UCX_", "FI_")
"""Variables of the libraries that move tensors: what works for the driver's shell or job works for its workers."""

ALLOCATOR = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
"""On GPUs, unless something else is set: rows of many lengths leave gaps in blocks that cannot grow."""


RECORDER = {"TORCH_FR_BUFFER_SIZE": "1000"}
"""Collectives that torch's flight recorder keeps in each worker: train/watch/flight_recorder.py reads them."""
OMP_SPIN_COUNT = "5000"
"""Turns that a thread spins at a barrier before it sleeps, where libgomp takes 300,000: spinning threads starve each
other where CPUs are shared, sleeping ones cost 12% of a step where they are not (docs/benchmarks.md)."""

CONTROLLER = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",  # a dead worker is seen that much later; Ray's default is 2 s
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a process for each attempt; attempts.py looks at the nodes itself
    "RAY_WARN_BLOCKING_GET_INSIDE_ASYNC": "0",  # as Ray Train sets it
}
"""What Ray Train's controller reads. All processes of a run have the same variables: one fork server makes them."""


LOCAL_RAY_SETTINGS = {
    "RAY_enable_metrics_collection": "0",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_event_stats": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "REPORTER_UPDATE_INTERVAL_MS": "60000",
}
"""Statistics of Ray that nobody reads where there is no dashboard. They take CPUs on which a model is trained."""

STARTS_PER_CPU = 4
"""Workers that start at the same time: forking takes little of a CPU. Ray warns of three times as many processes, and
eight trials on one CPU, each with one that only listens, are no reason to."""


@contextmanager
def cluster() -> Iterator[ClusterFacts]:
    """Join the cluster in RAY_ADDRESS, else start one on this machine for as long as the block lasts."""
    if ray.is_initialized():
        yield cluster_facts()
        return
    address = os.environ.get("RAY_ADDRESS")
    if not _wants_worker_logs():
        _quiet_ray()
    if address:
        _knock(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        if address:
            ray.init(address=address, log_to_driver=_wants_worker_logs(), logging_level=logging.WARNING)
        else:
            _start()
    except Exception as error:  # boundary: Ray raises what its parts do, also errors of its own that are no others'
        ray.shutdown()
        if address:
            raise _cannot_join(address, error) from error
        raise ClusterError(
            "cannot start Ray on this machine",
            got=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}",
            expected="free memory and /tmp to write to",
            fix="see /tmp/ray for its logs",
        ) from error
    try:
        with watching(local=not address):
            yield cluster_facts()
    finally:
        ray.shutdown()


def _start() -> None:
    """Ray on this machine, with as few processes and statistics of its own as it can do with."""
    cpus = os.cpu_count() or 1
    at_once = {"RAY_worker_maximum_startup_concurrency": str(STARTS_PER_CPU * cpus)}
    for name, value in (LOCAL_RAY_SETTINGS | at_once).items():
        os.environ.setdefault(name, value)
    ray.init(
        address="local",
        num_cpus=cpus,
        include_dashboard=False,
        log_to_driver=_wants_worker_logs(),
        logging_level=logging.WARNING,
    )
    if not _wants_worker_logs():
        node: Any = ray._private.worker._global_node
        node.kill_log_monitor(check_alive=False)  # it reads what nobody is shown


def _knock(address: str) -> None:
    """Is anybody there? ray.init itself would ask for many minutes. Raises ClusterError."""
    found = re.fullmatch(r"(?:ray://)?\[?([^/\]]+)\]?:(\d{1,5})", address)
    if found is None:  # `auto`, `local`, other schemes: Ray knows them, or refuses them at once
        return
    try:
        socket.create_connection((found[1], int(found[2])), timeout=CONNECT_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        raise _cannot_join(address, error) from error


def _cannot_join(address: str, error: Exception) -> ClusterError:
    return ClusterError(
        f"cannot join the Ray cluster {address}",
        got=" ".join(str(error).split())[:300],
        expected="a running head node at RAY_ADDRESS",
        fix="check RAY_ADDRESS, that the head runs (`ray status`), that RAY_AUTH_MODE and the token are its; "
        "or unset RAY_ADDRESS to run on this machine",
    )


def _quiet_ray() -> None:
    """Lines that tell a user of raysft nothing: hidden unless --debug."""
    token = logging.getLogger("ray._private.authentication.authentication_token_setup")
    token.addFilter(lambda record: "is enabled" not in record.getMessage())  # that it is off, one should know
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # "Progress bars disabled"
    logging.getLogger("ray.data._internal.execution.streaming_executor").setLevel(logging.WARNING)  # "finished"


def cluster_facts(without: Collection[str] = ()) -> ClusterFacts:
    """Total resources of the nodes that are alive and stay: Ray counts a dead one for a while, so they are asked.

    without: ids of nodes that are not to be used.

    If none answers, the driver is outside of the cluster's network (`ray://`), and Ray is believed.
    """
    leaving = {*_draining(), *without}
    alive = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in leaving]
    answering = [node for node in alive if _answers(node["NodeManagerAddress"], node["NodeManagerPort"])]
    return ClusterFacts(tuple(_node_facts(node["Resources"]) for node in answering or alive))


def num_draining() -> int:
    """How many nodes are about to be taken away."""
    return len(_draining())


def _draining() -> dict[str, int]:
    """{id of a node that is about to be taken away: when, Unix ms, 0 if not known}. Where Ray Train reads it too."""
    found: dict[str, int] = ray._private.state.state.get_draining_nodes()
    return found


def free_reservations() -> None:
    """Remove the placement groups of this job whose creating actor has died: Ray keeps them until the job ends.

    Ray Train 2.60 leaves one behind wherever Ray killed a worker for memory: its controller does not expect that
    error while it ends the group. The next attempt would wait in vain for the same CPUs.
    """
    table = ray._private.state.state._connect_and_get_accessor().get_placement_group_table()
    records = [PlacementGroupTableData.FromString(record) for record in table]
    for identity in left_behind(records, ray.get_runtime_context().get_job_id()):
        logger.warning("removing the placement group of a controller that has died")
        remove_placement_group(PlacementGroup(ray.PlacementGroupID(identity)))


def left_behind(records: Sequence[PlacementGroupTableData], job: str) -> list[bytes]:
    """Ids of the placement groups of a job (in hex) whose maker, an actor, has died (pure)."""
    return [
        record.placement_group_id
        for record in records
        if record.creator_job_id.hex() == job
        and record.creator_actor_dead
        and not ray.ActorID(record.creator_actor_id).is_nil()  # a driver's or a task's: Ray calls that one dead too
        and not record.is_detached
        and record.state != PlacementGroupTableData.REMOVED
    ]


def _answers(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=ANSWER_TIMEOUT_S).close()
    except OSError:
        return False
    return True


def _node_facts(resources: dict[str, float]) -> NodeFacts:
    kinds = [name.removeprefix("accelerator_type:") for name in resources if name.startswith("accelerator_type:")]
    return NodeFacts(
        cpus=resources.get("CPU", 0),
        gpus=resources.get("GPU", 0),
        memory_bytes=resources.get("memory", 0),
        accelerator=max(kinds, key=len, default=None),  # `A100-80G` says more than `A100`
    )


def worker_environment(section: ClusterSection) -> dict[str, str]:
    """Environment variables of training workers and of tasks that run a model."""
    return {
        "OMP_NUM_THREADS": str(section.cpus_per_worker),
        "GOMP_SPINCOUNT": OMP_SPIN_COUNT,
        "TOKENIZERS_PARALLELISM": "false",
        "DS_ACCELERATOR": "cuda" if section.gpus_per_worker else "cpu",
        **RECORDER,
        **CONTROLLER,
        **(ALLOCATOR if section.gpus_per_worker else {}),
        **{name: os.environ[name] for name in FORWARDED_VARIABLES if name in os.environ},
        **{name: value for name, value in os.environ.items() if name.startswith(FORWARDED_PREFIXES)},
        **section.env,
    }


def worker_runtime(section: ClusterSection, **variables: str) -> dict[str, Any]:
    """Ray's runtime environment of such workers: these variables too, and who makes them.

    A job that says itself how its processes start (`uv run` does) is not overruled. Where an autoscaler brings nodes,
    Ray Train waits for those of its workers as long as the recipe says, not 60 s.
    """
    of_job = ray.get_runtime_context().runtime_env.get("py_executable") if ray.is_initialized() else None
    forked = section.fork_server and of_job in (None, fork_client.command())
    made_by = {"py_executable": fork_client.command()} if forked else {}
    patience = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": f"{section.wait_for_nodes_s:g}"} if demand.scales() else {}
    return {"env_vars": worker_environment(section) | patience | variables, **made_by}


def run_task(
    section: ClusterSection, function: Callable[..., Result], *arguments: object, gpus: int | None = None
) -> Result:
    """Run a function once on the cluster with one worker's resources. gpus: another number of them. Raises what it
    raised."""
    task = ray.remote(function).options(
        num_cpus=section.cpus_per_worker,
        num_gpus=section.gpus_per_worker if gpus is None else gpus,
        max_retries=2,
        runtime_env=worker_runtime(section),
    )
    try:
        result: Result = ray.get(task.remote(*arguments))
    except RayTaskError as error:
        raise raised_in_task(error) from None
    return result


def _wants_worker_logs() -> bool:
    return logging.getLogger("raysft").isEnabledFor(logging.DEBUG)
