"""`kustomize build` as far as k8s/ uses it, so that rules are tested where there is no such program.

Resources and components, one namespace, JSON patches and config maps of files. Another key is an error.
tests/admission compares it with kustomize itself.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]
CLUSTER_WIDE = {"Namespace"}
KNOWN = {"apiVersion", "kind", "namespace", "resources", "components", "patches"}
KNOWN |= {"configMapGenerator", "generatorOptions"}


def build(folder: Path) -> list[Object]:
    """The objects of a folder with a kustomization.yaml."""
    content = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert set(content) <= KNOWN, f"{folder}: {set(content) - KNOWN} is not known here"
    found: list[Object] = []
    for name in [*content.get("resources", ()), *content.get("components", ())]:
        place = folder / name
        assert place.exists(), f"{folder}/kustomization.yaml names {name}"
        found += build(place) if place.is_dir() else list(yaml.safe_load_all(place.read_text()))
    for one in content.get("configMapGenerator", ()):
        assert content["generatorOptions"]["disableNameSuffixHash"]
        found.append(config_map(folder, one))
    for patch in content.get("patches", ()):
        targets = [one for one in found if is_target(one, patch["target"])]
        assert targets, f"{folder}: a patch of nothing"
        for one in targets:
            for change in yaml.safe_load(patch["patch"]):
                apply_change(one, change)
    if namespace := content.get("namespace"):
        for one in found:
            if one["kind"] not in CLUSTER_WIDE:
                one["metadata"]["namespace"] = namespace
            for subject in one.get("subjects", ()):
                subject["namespace"] = namespace
    return copy.deepcopy(found)  # no anchors: each object is its own


def config_map(folder: Path, one: Object) -> Object:
    data = {}
    for file in one["files"]:
        key, _, path = file.rpartition("=")
        data[key or path] = (folder / path).read_text()
    metadata = {"name": one["name"], "labels": one.get("options", {}).get("labels", {})}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def is_target(one: Object, target: dict[str, str]) -> bool:
    return one["kind"] == target["kind"] and one["metadata"]["name"] == target["name"]


def apply_change(one: Object, change: Object) -> None:
    """RFC 6902: `add` and `replace` below mappings."""
    *path, last = [part.replace("~1", "/").replace("~0", "~") for part in change["path"].split("/")[1:]]
    node: Any = one
    for part in path:
        node = node[part]
    assert change["op"] == "add" or (change["op"] == "replace" and last in node), change
    node[last] = change["value"]
