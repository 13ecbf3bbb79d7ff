"""The manifests of the repository, and a run that fits each of its clusters' files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from fakes import make_recipe

from raysft.kube.rayjob import manifests
from raysft.kube.settings import read_settings
from raysft.model.shape import read_shape
from raysft.recipe.schema import Recipe

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
CRDS = ROOT.parent / "shared" / "kuberay-crds"
OLDEST = "1.33"
"""Kubernetes, of the compatibility line in docs/guide/kubernetes.md."""
FOLDERS = [
    "base",
    *(f"overlays/{name}" for name in ("dev", "gpu", "history", "kueue", "monitoring", "search", "spot-elastic")),
]
CLUSTER_FILES = [
    "cluster.yaml",
    *(f"overlays/{name}/cluster.yaml" for name in ("history", "search", "spot-elastic")),
]


def in_the_cluster(**fields: Any) -> Recipe:
    """A small run whose every path the cluster sees."""
    fields.setdefault("name", "my-run")
    fields["data"] = {"train": "s3://bucket/train.jsonl", "eval": [], **fields.get("data", {})}
    fields["model"] = {"tokenizer": "Qwen/Qwen3-0.6B", **fields.get("model", {})}
    return make_recipe(storage="/storage/raysft", **fields)


SEARCH = {
    "space": {"optimizer.learning_rate": {"distribution": "loguniform", "low": 1e-5, "high": 1e-2}},
    "metrics": "train_loss",
    "budget": {"trials": 12},
}


def elastic_or_search(verb: Literal["train", "tune", "doctor"]) -> Recipe:
    """An elastic run of GPUs, or a search of twelve trials of one GPU."""
    if verb == "tune":
        return in_the_cluster(cluster={"workers": 1, "gpus_per_worker": 1}, tune=SEARCH)
    return in_the_cluster(cluster={"workers": {"min": 4, "max": 16}, "gpus_per_worker": 1})


def objects_of(file: str, verb: Any) -> list[dict[str, Any]]:
    """What raysft makes of such a recipe and a cluster's file below k8s/."""
    recipe = elastic_or_search(verb)
    return manifests(recipe, read_shape(recipe), read_settings(K8S / file), verb)
