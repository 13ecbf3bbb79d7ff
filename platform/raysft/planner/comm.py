"""Bytes that a rank sends in one step, and the pipeline's bubble.

Data parallel: ZeRO paper (arXiv:1910.02054), section 7: 2P elements for stages 0 to 2, 3P for stage 3, times
(n - 1) / n for n ranks. With m micro-batches DeepSpeed's stages 2 and 3 reduce (and stage 3 gathers) in each of them.
Tensor parallel: 2 all-reduces forward and 2 backward in a layer (arXiv:1909.08053). Sequence parallel: 4 all-to-all
(DeepSpeed-Ulysses, arXiv:2309.14509). Bubble: (p - 1) / (m + p - 1) of the step (GPipe, arXiv:1811.06965).
"""

from __future__ import annotations

from dataclasses import dataclass

from raysft.planner.memory import forward_pass, micro_steps, stage_layers, stage_parameters
from raysft.recipe.facts import ModelShape
from raysft.recipe.schema import Recipe


@dataclass(frozen=True)
class Traffic:
    """Bytes that one rank sends in one step, by what they are for."""

    gradients: int
    """Reduction of gradients and gathering of updated weights."""
    weights: int
    """ZeRO 3: weights gathered before they are used."""
    tensor: int
    sequence: int
    pipeline: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.gradients + self.weights + self.tensor + self.sequence + self.pipeline


def zero_elements(parameters: int, trained: int, ranks: int, zero: int, micro_batches: int) -> tuple[float, float]:
    """(reduced or gathered after an update, gathered before use): elements a rank sends in one step."""
    part = (ranks - 1) / ranks
    match zero:
        case 0 | 1:  # all-reduce, or reduce-scatter and all-gather: 2P either way, once a step
            return 2 * trained * part, 0.0
        case 2:
            return (micro_batches + 1) * trained * part, 0.0
        case _:
            return micro_batches * trained * part, 2 * micro_batches * parameters * part


def bubble(pipeline: int, micro_batches: int) -> float:
    """Idle share of a step of 1F1B."""
    return (pipeline - 1) / (micro_batches + pipeline - 1)


def traffic(recipe: Recipe, shape: ModelShape) -> Traffic:
    """Bytes that the rank sends which sends most: one of the first stage."""
    parallel, run = recipe.parallel, forward_pass(recipe, is_gpu=True)
    steps = micro_steps(recipe)
    passes = steps * (3 if recipe.train.gradient_checkpointing else 2)  # forward, perhaps again, backward
    layers = stage_layers(shape, parallel.pipeline)[0]
    parameters, trained = stage_parameters(recipe, shape, 0)
    ranks = recipe.cluster.workers // (parallel.tensor * parallel.pipeline)
    gradients, weights = zero_elements(parameters, trained, ranks, parallel.zero, steps)
    # ZeRO 0 and 1 reduce what was summed in fp32; 2 and 3 reduce each micro-batch in the working precision
    reduced = 4 if parallel.zero <= 1 else run.working
    hidden = run.tokens * shape.hidden_size * run.working
    heads = 2 * (shape.num_heads + shape.num_kv_heads) * shape.head_size * run.working / parallel.tensor
    t, s = parallel.tensor, parallel.sequence
    return Traffic(
        gradients=round(gradients * (reduced + run.working) / 2),
        weights=round(weights * run.working),
        tensor=round(passes * layers * 2 * 2 * (t - 1) / t * hidden),  # a ring all-reduce sends 2 (t - 1) / t
        sequence=round(passes * layers * heads * run.tokens * (s - 1) / s),
        pipeline=2 * steps * hidden if parallel.pipeline > 1 else 0,
    )
