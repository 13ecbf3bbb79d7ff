"""Is the exported model the one that was trained? Its loss on a few held-out rows, beside that of the training.

The workers measure the likelihood of these rows with every evaluation (train/worker.py). Where the last one is of the
commit that is exported, the task that wrote the export loads it as anybody would and computes the same: a merge that
puts an adapter on the wrong layer, a tensor under another name, a config that says something else show there. What
is found stands in export.json (`check`), and is told in a line; an export that differs is kept, with a warning.
Adapters alone, heads and vectors of texts are left out: transformers computes no likelihood of them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

from raysft import sealed, storage
from raysft.model.export_manifest import CHECK, MANIFEST
from raysft.objectives.base import NLL
from raysft.recipe.measures import HELD_OUT
from raysft.recipe.schema import Recipe
from raysft.run.room import host_memory
from raysft.run.worker_losses import measured_at_commit

logger = logging.getLogger(__name__)

TOLERANCE = {"fp32": 1e-3, "bf16": 0.01}
"""Largest difference of two losses, nats a token, or of themselves where they are above 1: kernels of another shape,
and an adapter that is added to its weights before they are rounded, not after."""

MEMORY_SHARE = 0.5
"""Share of free host memory that the weights may take while they are loaded."""


def what_training_says(run: str, recipe: Recipe, stores: Mapping[str, str]) -> dict[str, Any] | None:
    """{store, rows, nll, tolerance} of the newest commit, as JSON; None: it was not measured."""
    first = measured_at_commit(run).get(HELD_OUT, {}).get("first")
    if not isinstance(first, dict) or HELD_OUT not in stores or not math.isfinite(first.get(NLL, math.nan)):
        return None
    tolerance = TOLERANCE[recipe.train.precision] * max(1.0, first[NLL])
    return {"store": stores[HELD_OUT], **first, "tolerance": tolerance}


def check_export(out: str, asked: Mapping[str, Any], loss_of: Callable[[str, int], float]) -> None:
    """Write what an export's loss is into its manifest, unless it stands there. In a task.

    asked: of what_training_says(). loss_of: (store, its first rows) -> nats a token of the exported model.
    """
    place = storage.join(out, MANIFEST)
    manifest = sealed.read(place, {"files": list})
    if manifest is None or manifest.get(CHECK, {}).get("in_training") == asked[NLL]:
        return
    found = {"rows": asked["rows"], "in_training": asked[NLL], "tolerance": asked["tolerance"]}
    weights = sum(one["bytes"] for one in manifest["files"] if one["name"].startswith("merged/"))
    if weights > MEMORY_SHARE * host_memory():
        found["left_out"] = f"{weights / 2**30:.1f} GiB of weights do not fit into the memory of the task"
    else:
        try:
            found["loss"] = loss_of(asked["store"], asked["rows"])
        except Exception as error:  # process boundary: the export stays, and what is wrong with it is told
            found["problem"] = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    sealed.write(place, {**manifest, CHECK: found})


def tell_check(out: str) -> None:
    """Say what stands in the manifest of an export, if anything does."""
    manifest = sealed.read(storage.join(out, MANIFEST), {"files": list})
    found = (manifest or {}).get(CHECK)
    if not found:
        return
    of_training = f"{found['in_training']:.4f} in training, the first {found['rows']} held-out rows"
    if "left_out" in found:
        logger.info("%-12s not compared with the training: %s", "export", found["left_out"])
    elif "problem" in found:
        logger.warning("the exported model at %s cannot be asked for its loss: %s", out, found["problem"])
    elif abs(found["loss"] - found["in_training"]) <= found["tolerance"]:
        logger.info("%-12s loss %.4f, %s", "export", found["loss"], of_training)
    else:
        logger.warning(
            "the exported model at %s is not the one that was trained: loss %.4f, %s; rounding explains %.4f. Do not "
            "use it: set export.merged: false and use the adapter, and report the method and the model type",
            *(out, found["loss"], of_training, found["tolerance"]),
        )
