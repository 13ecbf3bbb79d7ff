"""Pods of a run: as many as the workers need, memory by hand, requests that are limits."""

from __future__ import annotations

import pytest
from fakes import make_recipe, recipe_8b

from raysft.kube.pods import data_group, head_group, worker_group, worker_pods
from raysft.kube.settings import KubernetesSettings
from raysft.model.shape import read_shape
from raysft.planner.devices import GIB
from raysft.recipe.change import change
from raysft.recipe.schema import Recipe

SETTINGS = KubernetesSettings(image="raysft:1")


def from_files(workers: int) -> Recipe:
    recipe = change(recipe_8b(workers, parallel={"zero": 3}), {"cluster.gpus_per_worker": 1})
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"source": "meta-llama/Llama-3.1-8B"})})


@pytest.mark.parametrize(
    ("workers", "per_node", "pods", "each"), [(1, 8, 1, 1), (8, 8, 1, 8), (16, 8, 2, 8), (12, 8, 2, 6), (4, 1, 4, 1)]
)
def test_workers_are_dealt_to_nodes(workers: int, per_node: int, pods: int, each: int) -> None:
    recipe = from_files(workers)
    sized = worker_pods(recipe, read_shape(recipe_8b(1)), SETTINGS.model_copy(update={"workers_per_node": per_node}))
    assert (sized.pods, sized.workers) == (pods, each)


def test_memory_is_that_of_the_whole_life_of_a_worker() -> None:
    """8B on 8 GPUs: a copy of an eighth of 12 bytes a parameter each; 4 GiB of libraries; Ray 2, /dev/shm 2 + 8."""
    sized = worker_pods(from_files(8), read_shape(recipe_8b(1)), SETTINGS)
    by_hand = 12 * 8_030_261_248 + 8 * 4 * GIB + 2 * GIB + 10 * GIB
    assert sized.memory_bytes == -(-by_hand // GIB) * GIB
    assert "8 x 11.2 GiB for copies of saves" in sized.why
    fresh = change(recipe_8b(8, parallel={"zero": 3}), {"cluster.gpus_per_worker": 1})
    assert "8 x 11.2 GiB for copies of saves" in worker_pods(fresh, read_shape(fresh), SETTINGS).why
    alone = from_files(1).model_copy(update={"model": fresh.model})
    lora = change(alone, {"method": {"kind": "lora"}})
    assert "for the export" in worker_pods(lora, read_shape(fresh), SETTINGS).why


def test_on_cpus_the_training_itself_is_in_the_pod() -> None:
    recipe = make_recipe(cluster={"workers": 3, "cpus_per_worker": 2})
    sized = worker_pods(recipe, read_shape(recipe), SETTINGS.model_copy(update={"workers_per_node": 2}))
    assert (sized.pods, sized.workers, sized.cpus) == (2, 2, 5)
    assert "for training" in sized.why


def test_requests_are_limits_and_shared_memory_is_counted() -> None:
    recipe, shape = from_files(8), read_shape(recipe_8b(1))
    group = worker_group(recipe, worker_pods(recipe, shape, SETTINGS), SETTINGS)
    for pod in (group["template"], head_group(SETTINGS, "r")["template"], data_group(SETTINGS)["template"]):
        (container,) = pod["spec"]["containers"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
        shm = next(volume for volume in pod["spec"]["volumes"] if volume["name"] == "shm")["emptyDir"]
        assert shm["medium"] == "Memory"
        assert int(shm["sizeLimit"][:-2]) < int(container["resources"]["limits"]["memory"][:-2])
    assert group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert group["rayStartParams"]["num-gpus"] == "8"
    assert "nvidia.com/gpu" not in str(head_group(SETTINGS, "r"))
    assert head_group(SETTINGS, "r")["rayStartParams"]["num-cpus"] == "0"


def test_spot_nodes_give_more_time_than_a_drain_takes() -> None:
    recipe, shape = from_files(8), read_shape(recipe_8b(1))
    spot = SETTINGS.model_copy(update={"spot": True, "head_node_selector": {"kind": "on-demand"}})
    kept = worker_group(recipe, worker_pods(recipe, shape, SETTINGS), SETTINGS)["template"]["spec"]
    pod = worker_group(recipe, worker_pods(recipe, shape, spot), spot)["template"]["spec"]
    assert (kept["terminationGracePeriodSeconds"], pod["terminationGracePeriodSeconds"]) == (60, 120)
    drain = {one["name"]: one["value"] for one in pod["containers"][0]["env"]}[
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
    ]
    assert pod["terminationGracePeriodSeconds"] > int(drain)
    assert head_group(spot, "r")["template"]["spec"]["nodeSelector"] == {"kind": "on-demand"}
    assert "terminationGracePeriodSeconds" not in head_group(spot, "r")["template"]["spec"]
