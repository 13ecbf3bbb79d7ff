"""A recipe as RayJobs: the operator's rules and raysft's own; KubeRay's schema where it is at hand."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from fakes import make_recipe

from raysft.errors import RecipeError
from raysft.kube.rayjob import as_yaml, manifests, object_name
from raysft.kube.settings import KubernetesSettings, read_settings
from raysft.model.shape import read_shape
from raysft.recipe.load import parse_recipe
from raysft.recipe.schema import Recipe

ROOT = Path(__file__).parents[3]
CRDS = ROOT.parent / "shared" / "kuberay-crds"
SETTINGS = KubernetesSettings(image="raysft:1", claim="raysft", secrets=("s3",), namespace="runs")


def in_the_cluster(**fields: Any) -> Recipe:
    recipe = make_recipe(**fields)
    where = {"storage": "/storage/raysft", "name": "my-run"}
    data = recipe.data.model_copy(update={"train": ("s3://bucket/train.jsonl",), "eval": ()})
    model = recipe.model.model_copy(update={"tokenizer": "Qwen/Qwen3-0.6B"})
    return recipe.model_copy(update={**where, "data": data, "model": model})


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


def broken_rules(job: dict[str, Any]) -> list[str]:
    """Which rules a RayJob breaks: of KubeRay's validation (v1.7) and of ours."""
    spec, found = job["spec"], []
    cluster = spec["rayClusterSpec"]
    pods = [cluster["headGroupSpec"]["template"], *(group["template"] for group in cluster["workerGroupSpecs"])]
    if spec.get("ttlSecondsAfterFinished", 0) > 0 and not spec.get("shutdownAfterJobFinishes"):
        found.append("a ttl needs shutdownAfterJobFinishes")
    if spec.get("submissionMode") != "HTTPMode":
        found.append("a log stream may decide over the job")
    if not spec.get("activeDeadlineSeconds") or not spec.get("preRunningDeadlineSeconds"):
        found.append("no deadline")
    if cluster.get("authOptions", {}).get("mode") != "token" or not cluster.get("rayVersion"):
        found.append("no token")
    if cluster["headGroupSpec"]["rayStartParams"].get("num-cpus") != "0":
        found.append("work on the head")
    if len(job["metadata"]["name"]) > 47:
        found.append("name")
    for pod in pods:
        (container,) = pod["spec"]["containers"]
        if container["resources"]["requests"] != container["resources"]["limits"]:
            found.append("requests are not limits")
        if any("secret" in str(variable.get("value", "")).lower() for variable in container["env"]):
            found.append("a secret by value")
        if any("emptyDir" in volume and volume["name"] != "shm" for volume in pod["spec"]["volumes"]):
            found.append("a directory that ends with the pod")
        if container["securityContext"].get("allowPrivilegeEscalation", True) or pod["spec"].get(
            "automountServiceAccountToken", True
        ):
            found.append("privileges")
    return found


def test_the_jobs_break_no_rule() -> None:
    for job in rendered()[1:]:
        assert broken_rules(job) == []


def test_the_rules_can_be_broken() -> None:
    for path, value, told in (
        (("submissionMode",), "SidecarMode", "log stream"),
        (("shutdownAfterJobFinishes",), False, "ttl"),
        (("activeDeadlineSeconds",), 0, "deadline"),
        (("rayClusterSpec", "authOptions", "mode"), "disabled", "token"),
        (("rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), "8", "head"),
    ):
        job = copy.deepcopy(rendered()[2])
        node = job["spec"]
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = value
        assert any(told in rule for rule in broken_rules(job)), told


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


def test_manifests_of_the_repository_name_no_version_that_is_gone_and_no_secret() -> None:
    files = sorted((ROOT / "k8s").rglob("*.yaml"))
    assert len(files) > 8
    for file in files:
        for one in yaml.safe_load_all(file.read_text()):
            assert "v1beta1" not in one.get("apiVersion", "") or "kustomize" in one["apiVersion"], file
            assert one.get("kind") != "Secret", "secrets are made by whoever has them"
    assert read_settings(ROOT / "k8s" / "cluster.yaml").namespace == "raysft"


@pytest.mark.parametrize("folder", ["base", "overlays/gpu", "overlays/kueue", "overlays/monitoring"])
def test_folders_name_files_that_are_there(folder: str) -> None:
    place = ROOT / "k8s" / folder
    listed = yaml.safe_load((place / "kustomization.yaml").read_text())["resources"]
    assert all((place / one).exists() for one in listed)
    files = {file.name for file in place.glob("*.yaml")} - {"kustomization.yaml"}
    assert files == {one for one in listed if one.endswith(".yaml")}


@pytest.mark.shared
@pytest.mark.skipif(not CRDS.exists(), reason="KubeRay's definitions are not at hand")
def test_kuberays_schema_takes_the_jobs() -> None:
    """Unknown fields are errors, as the API server's strict validation has it."""
    import jsonschema

    definition = yaml.safe_load((CRDS / "ray.io_rayjobs.yaml").read_text())
    schema = next(v["schema"]["openAPIV3Schema"] for v in definition["spec"]["versions"] if v["name"] == "v1")
    strict = _strict(schema)
    for job in rendered(SETTINGS.model_copy(update={"spot": True, "tolerations": ({"operator": "Exists"},)}))[1:]:
        jsonschema.validate(job, strict)
        typo = copy.deepcopy(job)
        typo["spec"]["entrypoynt"] = typo["spec"].pop("entrypoint")
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(typo, strict)


def _strict(schema: Any) -> Any:
    """No further fields where fields are named; a number or a text where Kubernetes takes both."""
    if isinstance(schema, list):
        return [_strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    found = {key: _strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        found.setdefault("additionalProperties", False)
    return found
