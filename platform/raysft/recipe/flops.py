"""FLOPs of a training step, for each weight that a token meets and for attention. Pure.

Counted are the passes that the recipe asks for, each with what it computes: forward 2 for each weight, gradients of
activations 2, of weights that are trained 2 (PaLM, arXiv:2204.02311, appendix B). Recomputation is not among them.
"""

from __future__ import annotations

from raysft.recipe.objective_traits import objective_of
from raysft.recipe.schema import Recipe
from raysft.recipe.traits import method_of

FORWARD, BACKWARD = 2.0, 2.0
"""FLOPs for a weight that a token meets: a pass, and the gradients of what goes into it."""


def flops_per_weight(recipe: Recipe, num_layers: int) -> float:
    """For each weight that a token meets, attention left out."""
    plain = method_of(recipe).flops_per_weight(recipe.method, num_layers)
    measured = FORWARD if objective_of(recipe).measures_first else 0.0
    if recipe.train.adversarial_epsilon:  # as it is, moved, and the gradients of the embeddings alone
        return 2 * plain + FORWARD + BACKWARD + measured
    return plain + measured


def attention_passes(recipe: Recipe) -> float:
    """What attention takes, over one forward and backward pass: a forward pass is a third of both."""
    return (3.0 if recipe.train.adversarial_epsilon else 1.0) + (
        1 / 3 if objective_of(recipe).measures_first else 0.0
    )


def graphs_at_once(recipe: Recipe) -> int:
    """Forward passes of a micro-batch whose activations are kept at the same time."""
    return 2 if recipe.train.adversarial_epsilon else 1
