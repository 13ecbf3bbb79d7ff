"""Which of Ray's placement groups nobody can use any more."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ray.core.generated.gcs_pb2 import PlacementGroupTableData

from raysft.recipe.sections.cluster import ClusterSection
from raysft.runtime import fork_client
from raysft.runtime.join import left_behind, worker_environment, worker_runtime

OWN, OTHER = b"\1\0\0\0", b"\2\0\0\0"


@pytest.mark.parametrize(
    ("job", "actor", "detached", "state", "is_left"),
    [
        (OWN, "dead", False, "CREATED", True),
        (OWN, "dead", False, "PENDING", True),  # it would take the CPUs as soon as they are free
        (OWN, "alive", False, "CREATED", False),
        (OWN, "none", False, "CREATED", False),  # Tune's groups of trials, made by the driver
        (OTHER, "dead", False, "CREATED", False),
        (OWN, "dead", True, "CREATED", False),  # meant to stay
        (OWN, "dead", False, "REMOVED", False),  # Ray keeps its record
    ],
)
def test_a_placement_group_whose_actor_has_died(
    job: bytes, actor: str, detached: bool, state: str, is_left: bool
) -> None:
    record = PlacementGroupTableData(
        placement_group_id=b"this one",
        creator_job_id=job,
        creator_actor_id=b"\xff" * 16 if actor == "none" else b"an actor" * 2,
        creator_actor_dead=actor != "alive",  # also where there was none
        is_detached=detached,
        state=PlacementGroupTableData.PlacementGroupState.Value(state),
    )
    assert left_behind([record], "01000000") == ([b"this one"] if is_left else [])


@pytest.mark.parametrize(
    ("wanted", "of_job", "forked"),
    [
        (True, None, True),
        (False, None, False),
        (True, "uv run --frozen", False),
        (True, fork_client.command(), True),
    ],
)
def test_who_makes_workers(monkeypatch: pytest.MonkeyPatch, wanted: bool, of_job: str | None, forked: bool) -> None:
    """A job that says how its processes start is not overruled."""
    context = SimpleNamespace(runtime_env={"py_executable": of_job} if of_job else {})
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    monkeypatch.setattr("ray.get_runtime_context", lambda: context)
    runtime = worker_runtime(ClusterSection(cpus_per_worker=3, fork_server=wanted), COLOUR="red")
    assert runtime["env_vars"]["OMP_NUM_THREADS"] == "3"
    assert runtime["env_vars"]["COLOUR"] == "red"
    assert runtime.get("py_executable") == (fork_client.command() if forked else None)


def test_the_environment_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the driver's own what libraries that move tensors read; of the recipe what it names; nothing else."""
    for name, value in {"NCCL_DEBUG": "INFO", "GLOO_SOCKET_IFNAME": "eth1", "HF_TOKEN": "hf_x", "MINE": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF", raising=False)
    found = worker_environment(ClusterSection(env={"NCCL_DEBUG": "WARN", "OTHER": "2"}))
    assert found["NCCL_DEBUG"] == "WARN"
    assert found["GLOO_SOCKET_IFNAME"] == "eth1"
    assert found["OTHER"] == "2"
    assert not {"HF_TOKEN", "MINE", "PYTORCH_CUDA_ALLOC_CONF"} & found.keys()
    on_gpus = worker_environment(ClusterSection(gpus_per_worker=1))
    assert on_gpus["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:512")
    set_so = worker_environment(ClusterSection(gpus_per_worker=1))
    assert set_so["PYTORCH_CUDA_ALLOC_CONF"] == "max_split_size_mb:512"
