"""What of a Kubernetes cluster a recipe does not know: one YAML file for all recipes that run there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, Strict, ValidationError, model_validator

from raysft.errors import RecipeError
from raysft.recipe.cleaning import Section, Strings
from raysft.recipe.yaml_text import MOST_BYTES, parse_yaml

Mappings = Annotated[tuple[dict[str, Any], ...], Strict(False)]
_NAME = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
"""Names of Kubernetes objects."""
QUEUE = "kueue.x-k8s.io/queue-name"


class KubernetesSettings(Section):
    """Where pods of a run go, and what they are given."""

    image: str = Field(
        min_length=1, description="Image with raysft and the Ray of this machine, for head and workers."
    )
    namespace: str = Field("default", pattern=_NAME, description="Namespace of all objects.")
    workers_per_node: int = Field(
        8, ge=1, description="Most workers in a pod: the GPUs of a node. Fewer when a run has fewer."
    )
    gpu_resource: str = Field("nvidia.com/gpu", description="What a node calls a GPU.")
    claim: str | None = Field(
        None, pattern=_NAME, description="PersistentVolumeClaim (ReadWriteMany) mounted at `mount` in every pod."
    )
    mount: str = Field(
        "/storage", pattern="^/", description="Where the claim is mounted; paths of recipes begin with it."
    )
    secrets: Strings = Field((), description="Secrets whose keys are environment variables of head and workers.")
    image_pull_secrets: Strings = Field((), description="Secrets to pull the image with.")
    service_account: str | None = Field(None, pattern=_NAME, description="Service account; its token is not mounted.")
    head_service_account: str | None = Field(
        None,
        pattern=_NAME,
        description="Service account of the head, its token mounted: it deletes the pods of broken nodes "
        "(`raysft-head` of k8s/base may). Default: no token, and pods of broken nodes stay.",
    )
    node_selector: dict[str, str] = Field({}, description="Labels of nodes for workers.")
    head_node_selector: dict[str, str] = Field({}, description="Labels of nodes for the head: on-demand ones.")
    tolerations: Mappings = Field((), description="Tolerations of workers, as Kubernetes has them.")
    resource_claims: Mappings = Field((), description="resourceClaims of worker pods (DRA), passed through.")
    scheduler_name: str | None = Field(None, description="Scheduler of all pods, where it is another.")
    labels: dict[str, str] = Field({}, description="Labels of the RayJob and its pods, such as a queue's.")
    annotations: dict[str, str] = Field({}, description="Annotations of worker pods, such as a topology.")
    prepare_cpus: int = Field(
        8, ge=0, description="CPUs that make the token store first, without GPUs; 0: the run does."
    )
    spot: bool = Field(False, description="Workers may be taken away: they get time to commit.")
    autoscale: bool = Field(
        False,
        description="Pods of workers come when the run or search asks for them and go when they are idle, down to "
        "none (KubeRay's autoscaler). Default: all are there from first to last.",
    )
    search_pods: int = Field(4, ge=1, description="Most pods of a search, whatever `tune.concurrent` says.")
    history: dict[str, Any] = Field(
        {},
        description="historyServerOptions of the RayCluster (KubeRay's collector of logs), passed through.",
    )
    deadline_hours: float = Field(168.0, gt=0, description="A job that takes longer is ended.")
    ready_minutes: float = Field(60.0, gt=0, description="A job whose pods are not there by then is ended.")
    keep_minutes: float = Field(60.0, ge=0, description="How long pods and their logs stay after the end.")
    head_retries: int = Field(
        0, ge=0, description="New clusters after a loss of the head. Workers are replaced inside the cluster anyway."
    )

    @model_validator(mode="after")
    def _one_who_scales(self) -> KubernetesSettings:
        if self.autoscale and QUEUE in self.labels:
            raise ValueError(
                f"autoscale means nothing with the label {QUEUE}: Kueue admits a job with all of its pods, or not"
            )
        return self


def read_settings(path: str | Path) -> KubernetesSettings:
    """Read such a file. Raises RecipeError, which names every wrong field."""
    try:
        with Path(path).open("rb") as stream:
            text = stream.read(MOST_BYTES + 1).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"cannot read {path}", got=str(error), expected="a YAML file in UTF-8", fix="check the path"
        ) from error
    content = parse_yaml(text, str(path))
    try:
        return KubernetesSettings.model_validate(content)
    except ValidationError as error:
        told = [f"{'.'.join(map(str, one['loc'])) or 'the file'}: {one['msg']}" for one in error.errors()]
        raise RecipeError(
            f"{path} does not describe a Kubernetes cluster",
            got="; ".join(told),
            expected=f"a mapping with image, and of: {', '.join(KubernetesSettings.model_fields)}",
            fix="see docs/guide/kubernetes.md",
        ) from None
