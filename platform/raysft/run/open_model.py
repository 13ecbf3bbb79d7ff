"""A run's directory, or an export -> a model that is ready to answer, and the untrained one that it came from.

A run without a merged export, or the bare adapter in it, answers from its newest checkpoint, its adapter applied:
also a run that is under way.
"""

from __future__ import annotations

from typing import Any

import torch

from raysft import storage
from raysft.data.text.stops import stop_token_ids
from raysft.errors import UserError
from raysft.evaluate.generation import TransformersGenerator
from raysft.evaluate.ready import ReadyModel, ready, ready_export
from raysft.model.load import rows_for
from raysft.model.methods import base_model, forward_of
from raysft.model.spread import unlimited
from raysft.model.trained import load_adapted, load_trained, load_untrained
from raysft.recipe.schema import Recipe
from raysft.recipe.traits import method_of
from raysft.run.base_weights import base_fingerprint
from raysft.run.remote_tasks import export_tokenizer, newest_checkpoint
from raysft.run.rundir import check_fresh, recipe_of

BATCH_SIZE = 8
"""Prompts answered at once."""


def open_model(location: str, *, batch_size: int = BATCH_SIZE) -> ReadyModel:
    """The model at a run's directory or an export's. Raises ModelError, UserError, CheckpointError."""
    location = storage.absolute(location).rstrip("/")
    recipe = recipe_of(location)
    if recipe is None and _has_no_model(location):
        location, recipe = run_of(location)
    if recipe is None or storage.exists(storage.join(location, "export", "merged", "config.json")):
        inside = location if recipe is None else storage.join(location, "export")
        return ready_export(inside, batch_size=batch_size)
    check_fresh(location, recipe)
    checkpoint = newest_checkpoint(location)
    tokenizer = export_tokenizer(recipe)
    size, weights = rows_for(tokenizer), checkpoint.weights()
    forward = None
    if "merged" in method_of(recipe).exports:
        model = load_trained(recipe, weights, vocab_size=size)
    else:
        module = load_adapted(recipe, weights, vocab_size=size, room=unlimited(_device()))
        model, forward = base_model(module), forward_of(module, recipe)
    stops = stop_token_ids(recipe, tokenizer) or None
    generator = TransformersGenerator(model, tokenizer, stops, batch_size=batch_size, forward=forward)
    state = checkpoint.state
    return ready(f"{location}, step {state.step}", {"run": location, "step": state.step}, generator)


def open_base(location: str, *, batch_size: int = BATCH_SIZE) -> ReadyModel:
    """The untrained model of a run, by the run's directory or its export's, with the template that was trained.

    Raises UserError where no run is known, ModelError.
    """
    location = storage.absolute(location).rstrip("/")
    run, recipe = run_of(location)
    if recipe is None:
        raise UserError(
            f"the untrained model of {location} is not known",
            got="no run.json there, or in the two directories above",
            expected="a run's directory, or the export in it",
            fix="name the run, or chat with the base by its own directory",
        )
    check_fresh(run, recipe, untrained=True)
    tokenizer = export_tokenizer(recipe)
    model = load_untrained(recipe, vocab_size=rows_for(tokenizer))
    generator = TransformersGenerator(
        model, tokenizer, stop_token_ids(recipe, tokenizer) or None, batch_size=batch_size
    )
    return ready(f"{recipe.model.source}, untrained", _base_identity(recipe), generator)


def run_of(location: str) -> tuple[str, Recipe | None]:
    """The run that a directory, or one of the two above it, is of; None: it is of none."""
    for place in (location, *(location.rsplit("/", count)[0] for count in (1, 2))):
        if (recipe := recipe_of(place)) is not None:
            return place, recipe
    return location, None


def _has_no_model(location: str) -> bool:
    """Is it an export with an adapter alone?"""
    parts = ("config.json", "merged/config.json")
    return storage.exists(location) and not any(storage.exists(storage.join(location, part)) for part in parts)


def _base_identity(recipe: Recipe) -> dict[str, Any]:
    return {"base": base_fingerprint(recipe), "model": recipe.model.model_dump(mode="json"), "seed": recipe.seed}


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
