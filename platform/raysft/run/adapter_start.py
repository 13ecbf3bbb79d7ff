"""What a run's adapters begin with where that is computed: found in its directory, or made by a task."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import save

from raysft import storage
from raysft.data.store.parts import TokenStore
from raysft.data.text.tokenizer import recipe_tokenizer
from raysft.evaluate.adapter_start import adapter_start
from raysft.recipe.load import parse_recipe
from raysft.recipe.schema import Recipe
from raysft.recipe.traits import method_of
from raysft.runtime.join import run_task
from raysft.train.history.paths import RunPaths

logger = logging.getLogger(__name__)


def find_or_make(recipe: Recipe, run: str, store: str | None) -> None:
    """Have it lie in the run. store: the training rows; None: they are streamed. Raises RaysftError."""
    words, location = method_of(recipe).computed_start(recipe.method), RunPaths(run).start
    if not words or storage.exists(location):
        return
    started = time.monotonic()
    run_task(recipe.cluster, make_start, recipe.model_dump(mode="json"), store, location)
    logger.info("adapters     begin with %s (%.1f s)", words, time.monotonic() - started)


def make_start(fields: Mapping[str, Any], store: str | None, location: str) -> None:
    """Compute and write it, in a task."""
    recipe = parse_recipe(dict(fields))
    torch.set_num_threads(recipe.cluster.cpus_per_worker)
    found = adapter_start(recipe, recipe_tokenizer(recipe), None if store is None else TokenStore.open(store))
    parts = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in found.items()}
    storage.write_bytes(location, save(parts))  # which refuses tensors that share memory
