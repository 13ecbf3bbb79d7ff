"""Pods of a search: whole trials in each, room for the greediest, and a study that can be kept."""

from __future__ import annotations

import pytest
from fakes import LLAMA
from kube_material import SEARCH, in_the_cluster

from raysft.errors import RecipeError, StorageError
from raysft.kube.rayjob import manifests
from raysft.kube.settings import KubernetesSettings
from raysft.model.shape import read_shape

SETTINGS = KubernetesSettings(image="raysft:1", claim="raysft")


@pytest.mark.parametrize(
    ("workers", "trials", "per_node", "most", "pods", "each"),
    [
        (1, 12, 8, 4, 2, 6),  # whole trials in each pod
        (1, 12, 1, 16, 12, 1),
        (1, 100, 1, 16, 16, 1),  # search_pods
        (4, 3, 8, 4, 2, 8),
        (3, 100, 8, 4, 4, 6),  # two trials of three fit into a pod of eight
        (16, 2, 8, 4, 4, 8),  # a trial over two nodes
        (16, 9, 8, 1, 2, 8),  # one trial at least
    ],
)
def test_a_search_has_pods_for_its_trials(
    workers: int, trials: int, per_node: int, most: int, pods: int, each: int
) -> None:
    recipe = in_the_cluster(
        cluster={"workers": workers, "gpus_per_worker": 1}, tune=SEARCH | {"budget": {"trials": trials}}
    )
    settings = SETTINGS.model_copy(update={"workers_per_node": per_node, "search_pods": most})
    _, prepare, search = manifests(recipe, read_shape(recipe), settings, "tune")
    assert prepare["spec"]["entrypoint"] == "raysft prepare /etc/raysft/recipe.yaml"
    assert search["spec"]["entrypoint"] == "raysft tune /etc/raysft/recipe.yaml"
    assert search["metadata"]["name"] == "my-run-tune"
    (group,) = search["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert (group["replicas"], group["maxReplicas"]) == (pods, pods)
    assert group["rayStartParams"]["num-gpus"] == str(each)


def test_a_pod_has_room_for_the_greediest_trial() -> None:
    """On CPUs the passes are in the pod: a search over the rows of a pass asks for that of its largest."""
    rows = {"distribution": "choice", "values": [1, 64]}
    space = {"train.micro_batch_rows": rows}

    def memory(rows: int, **tune: object) -> int:
        recipe = in_the_cluster(
            model={"config": LLAMA | {"hidden_size": 1024, "num_hidden_layers": 12, "intermediate_size": 4096}},
            data={"max_tokens": 128},
            train={"rows_per_step": 64, "micro_batch_rows": rows},
            **({"tune": {**SEARCH, "space": space, "budget": {"trials": 1}}} if tune else {}),
        )
        found = manifests(recipe, read_shape(recipe), SETTINGS, "tune" if tune else "train")[2]
        (group,) = found["spec"]["rayClusterSpec"]["workerGroupSpecs"]
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        return int(limits["memory"][:-2])

    assert memory(1) < memory(64)
    assert memory(1, tune=True) == memory(64)


def test_a_search_that_cannot_keep_its_trials_is_not_sent() -> None:
    recipe = in_the_cluster(tune=SEARCH).model_copy(update={"storage": "s3://bucket/runs"})
    with pytest.raises(StorageError, match="a study cannot lie"):
        manifests(recipe, read_shape(recipe), SETTINGS, "tune")
    with pytest.raises(RecipeError, match="what to search"):
        manifests(in_the_cluster(), read_shape(recipe), SETTINGS, "tune")
