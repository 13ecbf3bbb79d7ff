"""Is what runs in place of a model alone, for its adapter, what peft computes?

Asked of a small model of the kind before a run starts, and of the real one by a worker that has loaded it whole.
"""

from __future__ import annotations

import math

from torch import nn

from raysft.errors import ModelError
from raysft.model.facts import UNUSABLE
from raysft.model.fast.start_check import TOLERANCE, check_isolation, log_probs_alone
from raysft.model.methods import METHODS, apply_method, base_model, forward_of
from raysft.model.twin import attentions, make_twin
from raysft.recipe.schema import Recipe
from raysft.recipe.traits import method_of


def check_kind(recipe: Recipe) -> None:
    """Ask a small model of the recipe's kind, with the attention of it that fits best. Raises ModelError.

    A kind of which no small model computes anything by itself is left to the workers.
    """
    twin = make_twin(recipe) if METHODS[recipe.method.kind].forward is not None else None
    if twin is None:
        return
    vocab_size: int = twin.config.vocab_size
    try:
        log_probs_alone(twin, vocab_size)
    except UNUSABLE:
        return
    names = attentions(twin, twin.config._attn_implementation)
    module = apply_method(twin, recipe)
    found = []
    for name in names:
        twin.set_attn_implementation(name)
        found.append(_difference(module, recipe, vocab_size))
    _refuse(recipe, *min(found))


def check_forward(module: nn.Module, recipe: Recipe, vocab_size: int) -> None:
    """Ask a whole model with its adapter. module: of apply_method. Raises ModelError."""
    if METHODS[recipe.method.kind].forward is not None:
        _refuse(recipe, *_difference(module, recipe, vocab_size))


def _difference(module: nn.Module, recipe: Recipe, vocab_size: int) -> tuple[float, str]:
    """Largest difference of a log-probability from peft's on each sample, packed as the recipe says; and in words."""
    model, forward, was_training = base_model(module), forward_of(module, recipe), module.training
    module.train(False)  # peft's encoder may drop
    try:
        difference = check_isolation(
            model,
            vocab_size,
            packing=recipe.data.packing,
            hidden=lambda of, input_ids, position_ids: forward.hidden_states(input_ids, position_ids),
            alone=log_probs_alone(model, vocab_size, through=module),
        )
    except (*UNUSABLE, ModelError) as error:
        return math.inf, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    finally:
        module.train(was_training)
    if math.isnan(difference):
        return math.inf, "log-probabilities that are no numbers"
    return difference, f"log-probabilities that differ by {difference:.2g}"


def _refuse(recipe: Recipe, difference: float, got: str) -> None:
    if not difference <= TOLERANCE:
        raise ModelError(
            f"{method_of(recipe).title} is not what peft computes with this type of model",
            got=got,
            expected=f"at most {TOLERANCE:g}",
            fix="use another method.kind, or try data.packing: false; if it stays, report the model type",
        )
