"""Manifests against schemas, unknown fields refused: Kubernetes' own kinds, and KubeRay's where they are at hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import kubernetes_validate
import pytest
import yaml
from kube_material import CLUSTER_FILES, CRDS, FOLDERS, K8S, OLDEST, objects_of
from kustomize import build

OTHERS = {"RayJob", "RayCluster", "PodMonitor", "PrometheusRule", "LocalQueue"}
"""Of custom resources: kubernetes-validate has no schema."""

EVERYTHING = [one for folder in FOLDERS for one in build(K8S / folder)]
JOBS = [one for file in CLUSTER_FILES for verb in ("train", "tune", "doctor") for one in objects_of(file, verb)]


def test_kubernetes_own_kinds_pass() -> None:
    own = [one for one in EVERYTHING + JOBS if one["kind"] not in OTHERS]
    unlike = {str(one): one for one in own}.values()
    assert {one["kind"] for one in unlike} >= {
        "Deployment",
        "Role",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "ConfigMap",
    }
    for one in unlike:
        kubernetes_validate.validate(one, OLDEST, strict=True)


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("NetworkPolicy", ("spec", "podSelektor"), {}),
        ("ResourceQuota", ("spec", "hard"), ["cpu"]),
        ("Deployment", ("spec", "replicas"), "one"),
        ("PersistentVolumeClaim", ("spec", "resources", "request"), {}),
        ("PodDisruptionBudget", ("spec", "selectors"), {}),
    ],
)
def test_kubernetes_own_kinds_with_a_mistake_do_not(kind: str, path: tuple[str, ...], value: Any) -> None:
    one = copy.deepcopy(next(one for one in EVERYTHING if one["kind"] == kind))
    node = one
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(one, OLDEST, strict=True)


@pytest.fixture(scope="module")
def kuberay() -> dict[str, Callable[[Any], None]]:
    """{kind: what raises jsonschema's ValidationError for an object that its definition refuses}."""
    if not CRDS.exists():
        pytest.skip("KubeRay's definitions are not at hand")
    from jsonschema import Draft202012Validator

    def checks(schema: dict[str, Any]) -> Callable[[Any], None]:
        validator = Draft202012Validator(strict(schema))
        return lambda one: validator.validate(with_defaults(one, schema))

    found = {}
    for kind in ("RayJob", "RayCluster"):
        definition = yaml.load((CRDS / f"ray.io_{kind.lower()}s.yaml").read_text(), Loader=yaml.CSafeLoader)
        schema = next(v["schema"]["openAPIV3Schema"] for v in definition["spec"]["versions"] if v["name"] == "v1")
        found[kind] = checks(schema)
    return found


@pytest.mark.shared
def test_kuberays_kinds_pass(kuberay: dict[str, Callable[[Any], None]]) -> None:
    mine = [one for one in EVERYTHING + JOBS if one["kind"] in kuberay]
    assert len(mine) == 2 + 5 * len(CLUSTER_FILES)
    for one in {str(one): one for one in mine}.values():
        kuberay[one["kind"]](one)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "entrypoynt"), "raysft train"),
        (("spec", "activeDeadlineSeconds"), "soon"),
        (("spec", "rayClusterSpec", "autoscalerOptions", "version"), "v3"),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "replicas"), "one"),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "template", "spec", "restartPolici"), "Never"),
        (("spec", "rayClusterSpec", "historyServerOptions"), {"collector": {}}),
        (("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
    ],
)
def test_kuberays_kinds_with_a_mistake_do_not(
    kuberay: dict[str, Callable[[Any], None]], path: tuple[Any, ...], value: Any
) -> None:
    import jsonschema

    job = copy.deepcopy(objects_of("overlays/spot-elastic/cluster.yaml", "train")[2])
    node = job
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        kuberay["RayJob"](job)


def with_defaults(value: Any, schema: dict[str, Any]) -> Any:
    """The value with the schema's defaults, which the API server fills in before it validates."""
    if isinstance(value, dict):
        fields = schema.get("properties", {})
        given = {name: one["default"] for name, one in fields.items() if "default" in one} | value
        return {name: with_defaults(one, fields.get(name, {})) for name, one in given.items()}
    if isinstance(value, list):
        return [with_defaults(one, schema.get("items", {})) for one in value]
    return value


def strict(schema: Any) -> Any:
    """No further fields where fields are named; a number or a text where Kubernetes takes both."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    found = {key: strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        found.setdefault("additionalProperties", False)
    return found
