"""What is there once a recipe's data are prepared: the stores, by what they are for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from raysft.recipe.measures import HELD_OUT


@dataclass(frozen=True)
class Store:
    """A finished token store."""

    location: str
    manifest: dict[str, Any]


@dataclass(frozen=True)
class Prepared:
    """Where the stores are, and what they hold."""

    train: str | None
    """None in stream mode: then the training manifest tells of the first samples only."""
    eval: str | None
    train_manifest: dict[str, Any]
    eval_manifest: dict[str, Any] | None
    sets: Mapping[str, Store] = field(default_factory=dict)
    """Those of evaluate.sets, by name."""

    @property
    def evaluated(self) -> dict[str, Store]:
        """{set: its store} of all that is evaluated: the held-out data first."""
        if self.eval is None or self.eval_manifest is None:
            return dict(self.sets)
        return {HELD_OUT: Store(self.eval, self.eval_manifest), **self.sets}

    @property
    def eval_stores(self) -> dict[str, str]:
        """{set: location of its store}."""
        return {name: store.location for name, store in self.evaluated.items()}
