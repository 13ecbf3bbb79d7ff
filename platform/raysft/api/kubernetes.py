"""`raysft.manifest`: what a run is on Kubernetes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from raysft.kube.rayjob import Verb, as_yaml, bill, manifests
from raysft.kube.sent_by import check_image, sent_by
from raysft.kube.settings import read_settings
from raysft.model.shape import read_shape
from raysft.recipe.change import change
from raysft.recipe.schema import Recipe
from raysft.run.layout_choice import with_vocabulary


@dataclass(frozen=True)
class Manifest:
    """The objects of a run, in the order in which they are applied."""

    objects: tuple[dict[str, Any], ...]

    @property
    def yaml(self) -> str:
        """For `kubectl apply -f -`."""
        return as_yaml(list(self.objects))

    @property
    def bill(self) -> list[str]:
        """What each job reserves, and for how long at the most."""
        return [bill(one) for one in self.objects if one["kind"] == "RayJob"]

    def only(self, verb: str) -> Manifest:
        """The job of one verb (`prepare`, `train`, `tune`, `doctor`), and the recipe that it reads."""
        others = [one for one in self.objects if one["kind"] == "RayJob"]
        return Manifest(tuple(one for one in self.objects if one not in others or verb in one["spec"]["entrypoint"]))

    def __str__(self) -> str:
        return self.yaml


def manifest(recipe: Recipe, on: str, model: str | None, verb: Verb) -> Manifest:
    """See verbs.manifest."""
    settings = read_settings(on)
    sized = change(recipe, {"model.source": model}) if model else recipe
    return Manifest(tuple(manifests(recipe, read_shape(with_vocabulary(sized)), settings, verb)))


def refuse_other_image(told: str) -> None:
    """In a pod of a run: refuse to drive it with other versions than its sender's (`told`). Raises ClusterError."""
    check_image(told, sent_by())
