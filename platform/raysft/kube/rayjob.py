"""A recipe -> RayJobs of KubeRay (1.7 or later), and the ConfigMap that carries the recipe. Pure.

First a job on CPUs makes the token store, so that no GPU waits for tokens; then one trains, or searches. Both take
up what they find: applying the same manifests under the same name again goes on with the run. Retries of workers are
made inside the cluster, by raysft; a new cluster is made only after a loss of the head, if `head_retries` says so.
"""

from __future__ import annotations

import hashlib
import json
import re
from importlib.metadata import version
from typing import Any, Literal

import yaml

from raysft.errors import RecipeError
from raysft.kube.pods import RECIPE_PATH, autoscaler, data_group, head_group, worker_group, worker_pods
from raysft.kube.settings import KubernetesSettings
from raysft.kube.trials import trial_pods
from raysft.recipe.facts import ModelShape
from raysft.recipe.paths import with_absolute_paths
from raysft.recipe.schema import Recipe
from raysft.recipe.travel import refuse_secrets, refuse_unseen
from raysft.recipe.tune_checks import check_place, check_tune

Verb = Literal["train", "tune", "doctor"]
"""What the last job does; `doctor` looks at the pods that a run would have, and has no job before it."""

RUN, STORAGE = "raysft.io/run-name", "raysft.io/storage"
RECIPE_HASH, SPEC_HASH = "raysft.io/recipe-sha256", "raysft.io/spec-sha256"
"""Annotations: whose an object is, and what it was made from. `a_b` and `a-b` are one name of an object."""
MOST_NAME_CHARS = 47
"""Longest name of a RayJob: KubeRay appends to it, and names of pods end at 63."""


def manifests(
    recipe: Recipe, shape: ModelShape, settings: KubernetesSettings, verb: Verb = "train"
) -> list[dict[str, Any]]:
    """ConfigMap and RayJobs, in the order in which they are applied. shape: of the recipe's model.

    Raises RecipeError for paths that the cluster cannot see, names that it does not take, and a search without
    `tune:`; StorageError where a study cannot lie in its storage.
    """
    recipe = with_absolute_paths(recipe)
    if verb == "doctor":  # all pods at once: it looks at those that are there, and asks for none
        settings = settings.model_copy(update={"autoscale": False, "prepare_cpus": 0})
    check_locations(recipe, settings)
    name = object_name(recipe.name)
    if verb == "tune":
        tune = check_tune(recipe)
        check_place(recipe, tune)
        sized = trial_pods(recipe, tune, shape, settings)
    else:
        sized = worker_pods(recipe, shape, settings)
    text = yaml.safe_dump(recipe.model_dump(mode="json", exclude_unset=True), sort_keys=False, allow_unicode=True)
    notes = {RUN: recipe.name, STORAGE: recipe.storage, RECIPE_HASH: _hash(text)}
    found = [_config(text, name, settings)]
    if settings.prepare_cpus:
        found.append(_job(name, "prepare", data_group(settings), settings))
    found.append(_job(name, verb, worker_group(recipe, sized, settings), settings))
    for one in found:
        spec = json.dumps(one.get("spec", {}), sort_keys=True)
        one["metadata"]["annotations"] = {**notes, SPEC_HASH: _hash(spec)}
    return found


def bill(job: dict[str, Any]) -> str:
    """A RayJob's reservation in one line: pods of its workers, their GPUs or CPUs, and hours at the most."""
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    pods, fewest = group["maxReplicas"], group["minReplicas"]
    parameters = group["rayStartParams"]
    each = f"{parameters['num-gpus']} GPUs" if "num-gpus" in parameters else f"{parameters['num-cpus']} CPUs, no GPU"
    hours = job["spec"]["activeDeadlineSeconds"] / 3600
    much = (
        f", at most {pods * int(parameters['num-gpus']) * hours:,.0f} GPU-hours" if "num-gpus" in parameters else ""
    )
    come = f"0 to {pods}, as they are asked for" if fewest == group["replicas"] == 0 else f"{pods}"
    verb = job["spec"]["entrypoint"].split()[1]
    return f"reserved     {verb}: pods {come}, each of {each}, ended after {hours:g} h{much}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def as_yaml(found: list[dict[str, Any]]) -> str:
    """The manifests as one stream for `kubectl apply -f -`."""
    text: str = yaml.dump_all(found, Dumper=_Dumper, sort_keys=False, width=110)
    return text


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as they are read."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def object_name(run: str) -> str:
    """The run's name as Kubernetes takes it. Raises RecipeError when it cannot be told from others."""
    name = re.sub(r"[^a-z0-9-]+", "-", run.lower()).strip("-")
    if not name or len(name) > MOST_NAME_CHARS - len("-prepare"):
        raise RecipeError(
            "the run's name is no name for a RayJob",
            got=run,
            expected=f"letters, digits and dashes, at most {MOST_NAME_CHARS - len('-prepare')}",
            fix="give the recipe another `name`",
        )
    return name


def check_locations(recipe: Recipe, settings: KubernetesSettings) -> None:
    """Refuse paths of this machine, and secrets: a ConfigMap is none. Raises RecipeError."""
    inside = settings.mount.rstrip("/") + "/"

    def is_seen(location: str) -> bool:
        return not location.startswith("/") or bool(settings.claim and f"{location}/".startswith(inside))

    where = f"below {settings.mount} (the claim {settings.claim})" if settings.claim else "no claim is named"
    refuse_unseen(recipe, is_seen, f"s3://, gs:// or hub names, or paths on a volume that all pods mount: {where}")
    refuse_secrets(recipe)


def _config(text: str, name: str, settings: KubernetesSettings) -> dict[str, Any]:
    file = RECIPE_PATH.rpartition("/")[2]
    metadata = {"name": f"{name}-recipe", "namespace": settings.namespace, "labels": _labels(name)}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {file: text}}


def _job(name: str, verb: str, workers: dict[str, Any], settings: KubernetesSettings) -> dict[str, Any]:
    own = name if verb == "train" else f"{name}-{verb}"
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": own, "namespace": settings.namespace, "labels": _labels(name) | settings.labels},
        "spec": {
            "entrypoint": f"raysft {verb} {RECIPE_PATH}",
            "submissionMode": "HTTPMode",  # the operator asks for the job's status; no log stream decides over it
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": round(60 * settings.keep_minutes),
            "preRunningDeadlineSeconds": round(60 * settings.ready_minutes),
            "activeDeadlineSeconds": round(3600 * settings.deadline_hours),
            "backoffLimit": settings.head_retries,
            "rayClusterSpec": {
                "rayVersion": version("ray"),
                "authOptions": {"mode": "token"},
                "headGroupSpec": head_group(settings, f"{name}-recipe"),
                "workerGroupSpecs": [workers],
                **(autoscaler() if settings.autoscale and verb != "prepare" else {}),
                **({"historyServerOptions": dict(settings.history)} if settings.history else {}),
            },
        },
    }


def _labels(name: str) -> dict[str, str]:
    return {"app.kubernetes.io/name": "raysft", "raysft.io/run": name}
