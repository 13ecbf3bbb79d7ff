"""A recipe as RayJobs: what goes along, how many pods, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from kube_material import in_the_cluster
from kube_rules import broken_rules

from raysft.errors import RecipeError
from raysft.kube.rayjob import as_yaml, bill, manifests, object_name
from raysft.kube.settings import KubernetesSettings
from raysft.model.shape import read_shape
from raysft.recipe.load import parse_recipe

SETTINGS = KubernetesSettings(image="raysft:1", claim="raysft", secrets=("s3",), namespace="runs")


def rendered(settings: KubernetesSettings = SETTINGS) -> list[dict[str, Any]]:
    recipe = in_the_cluster(cluster={"workers": 4})
    return manifests(recipe, read_shape(recipe), settings)


def test_the_recipe_goes_along_and_is_the_same() -> None:
    config, prepare, train = rendered()
    assert [one["kind"] for one in (config, prepare, train)] == ["ConfigMap", "RayJob", "RayJob"]
    recipe = parse_recipe(yaml.safe_load(config["data"]["recipe.yaml"]))
    assert recipe == in_the_cluster(cluster={"workers": 4})
    assert train["spec"]["entrypoint"] == "raysft train /etc/raysft/recipe.yaml"
    assert prepare["spec"]["entrypoint"] == "raysft prepare /etc/raysft/recipe.yaml"
    head = train["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    assert {"name": "recipe", "configMap": {"name": config["metadata"]["name"]}} in head["volumes"]
    assert list(yaml.safe_load_all(as_yaml([config, prepare, train]))) == [config, prepare, train]


def test_objects_say_what_they_were_made_from() -> None:
    """`raysft submit` tells by them whose an object is, and whether it is what is asked for now."""
    notes = [one["metadata"]["annotations"] for one in rendered()]
    assert {note["raysft.io/run-name"] for note in notes} == {"my-run"}
    assert {note["raysft.io/storage"] for note in notes} == {"/storage/raysft"}
    again = [one["metadata"]["annotations"] for one in rendered(SETTINGS.model_copy(update={"image": "raysft:2"}))]
    assert len({note["raysft.io/recipe-sha256"] for note in notes + again}) == 1
    specs = [[note["raysft.io/spec-sha256"] for note in each] for each in (notes, again)]
    assert [one == other for one, other in zip(*specs, strict=True)] == [True, False, False]


def test_no_gpu_waits_for_tokens() -> None:
    _, prepare, train = rendered()
    assert "nvidia.com/gpu" not in str(prepare)
    assert train["metadata"]["name"] == "my-run"
    assert [one["kind"] for one in rendered(SETTINGS.model_copy(update={"prepare_cpus": 0}))] == [
        "ConfigMap",
        "RayJob",
    ]


def test_the_jobs_break_no_rule() -> None:
    for job in rendered()[1:]:
        assert broken_rules(job) == []


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"storage": "/home/me/storage"}, "storage: /home/me/storage"),
        ({"data": {"train": ["train.jsonl"]}}, "data.train: /"),
        ({"data": {"train": [{"path": ["/data/a.jsonl"]}]}}, "data.train: /data/a.jsonl"),
        ({"data": {"eval": ["~/eval.jsonl"]}}, "data.eval: /"),
        ({"model": {"source": "./model"}}, "model.source: /"),
        ({"evaluate": {"sets": {"dev": {"data": ["dev.jsonl"]}}}}, "evaluate.sets.dev.data: /"),
        ({"data": {"rules": [{"rule": "harmful_words", "lists": {"a": "words.txt"}}]}}, "data.rules: /"),
        ({"storage": "/storageroom/x"}, "storage: /storageroom/x"),
    ],
)
def test_paths_of_this_machine_are_refused_by_field(fields: dict[str, Any], named: str) -> None:
    content = in_the_cluster().model_dump(mode="json", exclude_unset=True)
    for section, value in fields.items():
        content[section] = {**content.get(section, {}), **value} if isinstance(value, dict) else value
    if "source" in fields.get("model", {}):
        content["model"].pop("config", None)
    recipe = parse_recipe(content)
    with pytest.raises(RecipeError, match="cannot see paths") as caught:
        manifests(recipe, read_shape(in_the_cluster()), SETTINGS)
    assert named in caught.value.got


def test_without_a_claim_no_path_is_seen() -> None:
    recipe = in_the_cluster()
    with pytest.raises(RecipeError, match="cannot see paths"):
        manifests(recipe, read_shape(recipe), SETTINGS.model_copy(update={"claim": None}))


@pytest.mark.parametrize(
    ("name", "expected"), [("My_Run.1", "my-run-1"), ("a" * 39, "a" * 39), ("a" * 40, None), ("7", "7")]
)
def test_names(name: str, expected: str | None) -> None:
    if expected is None:
        with pytest.raises(RecipeError, match="no name for a RayJob"):
            object_name(name)
    else:
        assert object_name(name) == expected


def test_pods_come_when_they_are_asked_for() -> None:
    """From none to all, by KubeRay's autoscaler; its head may talk to the API server, by the operator's account."""
    scaled = SETTINGS.model_copy(update={"autoscale": True, "service_account": "raysft"})
    recipe = in_the_cluster(cluster={"workers": {"min": 4, "max": 16}, "gpus_per_worker": 1})
    _, prepare, train = manifests(recipe, read_shape(recipe), scaled)
    spec = train["spec"]["rayClusterSpec"]
    (group,) = spec["workerGroupSpecs"]
    assert (group["replicas"], group["minReplicas"], group["maxReplicas"]) == (0, 0, 2)
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["autoscalerOptions"]["version"] == "v2"
    head, worker = spec["headGroupSpec"]["template"]["spec"], group["template"]["spec"]
    assert head["automountServiceAccountToken"] is True
    assert "serviceAccountName" not in head
    assert worker["automountServiceAccountToken"] is False
    assert worker["serviceAccountName"] == "raysft"
    assert "enableInTreeAutoscaling" not in prepare["spec"]["rayClusterSpec"], "one pod, and it is needed"


def test_without_an_autoscaler_all_pods_are_there_from_the_first_to_the_last_step() -> None:
    recipe = in_the_cluster(cluster={"workers": {"min": 4, "max": 16}, "gpus_per_worker": 1})
    (group,) = manifests(recipe, read_shape(recipe), SETTINGS)[2]["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert (group["replicas"], group["minReplicas"], group["maxReplicas"]) == (2, 1, 2)


def test_two_who_scale_are_refused() -> None:
    with pytest.raises(ValueError, match="Kueue admits"):
        KubernetesSettings(image="a:1", autoscale=True, labels={"kueue.x-k8s.io/queue-name": "q"})


def test_the_head_may_delete_pods_where_it_is_told_so() -> None:
    told = SETTINGS.model_copy(update={"head_service_account": "raysft-head", "service_account": "raysft"})
    head, worker = pods(told)
    assert (head["serviceAccountName"], head["automountServiceAccountToken"]) == ("raysft-head", True)
    assert (worker["serviceAccountName"], worker["automountServiceAccountToken"]) == ("raysft", False)
    assert [pod["automountServiceAccountToken"] for pod in pods(SETTINGS)] == [False, False]


def pods(settings: KubernetesSettings) -> list[dict[str, Any]]:
    """Specs of a head's and a worker's pod."""
    spec = rendered(settings)[2]["spec"]["rayClusterSpec"]
    return [spec["headGroupSpec"]["template"]["spec"], spec["workerGroupSpecs"][0]["template"]["spec"]]


def test_what_is_reserved_is_told_in_gpu_hours() -> None:
    recipe = in_the_cluster(cluster={"workers": 16, "gpus_per_worker": 1})
    settings = SETTINGS.model_copy(update={"deadline_hours": 10.0})
    _, prepare, train = manifests(recipe, read_shape(recipe), settings)
    assert bill(prepare) == "reserved     prepare: pods 1, each of 8 CPUs, no GPU, ended after 10 h"
    assert bill(train).endswith("train: pods 2, each of 8 GPUs, ended after 10 h, at most 160 GPU-hours")
    scaled = manifests(recipe, read_shape(recipe), settings.model_copy(update={"autoscale": True}))[2]
    assert "pods 0 to 2, as they are asked for" in bill(scaled)
