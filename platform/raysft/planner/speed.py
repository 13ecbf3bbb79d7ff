"""Predicted time of a step and MFU: a roofline with two published constants, made to rank layouts.

Compute, communication that nothing hides, the optimizer's passes over memory, the bubble. Model FLOPs as PaLM counts
them (arXiv:2204.02311, appendix B): recomputation is no use, so it lowers the MFU.
"""

from __future__ import annotations

from dataclasses import dataclass

from raysft.planner.comm import Traffic, bubble, traffic
from raysft.planner.devices import Cluster
from raysft.planner.memory import micro_steps, stage_layers, stage_parameters
from raysft.recipe.facts import ModelShape
from raysft.recipe.flops import attention_passes, flops_per_weight
from raysft.recipe.schema import Recipe
from raysft.recipe.traits import method_of

COMPUTE_EFFICIENCY = 0.40
"""Share of the peak that models as transformers writes them reach without a compiler: 8B LoRA on one H100 12,473
tokens/s (NeMo Automodel, 40.6%), 8B full on eight 5,762 (torchtitan, eager, 33% with its communication)."""

LINK_EFFICIENCY = 0.75
"""Share of a link's rate that large collectives reach."""

SMALL = 1024
"""Tokens of a micro-batch below which matrices no longer fill the device: efficiency x tokens / SMALL."""


@dataclass(frozen=True)
class StepTime:
    """Seconds of one optimizer step at full rows."""

    compute_s: float
    """Seconds that the slowest stage computes, bubble excluded."""
    communication_s: float
    """Not hidden behind compute."""
    optimizer_s: float
    bubble: float
    """Share of the pipelined part that a stage waits."""
    tokens: int
    """Tokens of the global step."""
    model_flops: float
    """FLOPs that the model needs for the global step."""
    peak_flops: float
    """FLOP/s that all devices together could do in the run's precision."""

    @property
    def total_s(self) -> float:
        """The step."""
        return self.compute_s / (1 - self.bubble) + self.communication_s + self.optimizer_s

    @property
    def tokens_per_s(self) -> float:
        """Tokens per second, all devices together."""
        return self.tokens / self.total_s

    @property
    def mfu(self) -> float:
        """Model FLOPs over what the devices could have done."""
        return self.model_flops / (self.total_s * self.peak_flops)

    @property
    def communication_share(self) -> float:
        """Share of the step that is communication not hidden behind compute."""
        return self.communication_s / self.total_s


def step_time(recipe: Recipe, shape: ModelShape, cluster: Cluster) -> StepTime:
    """Predict one step of a recipe in its layout."""
    parallel, train, device = recipe.parallel, recipe.train, cluster.device
    workers, length = recipe.cluster.workers, recipe.data.max_tokens
    tokens = train.rows_per_step * length
    flops = tokens * flops_per_token(recipe, shape)
    work = flops * (4 / 3 if train.gradient_checkpointing else 1)
    if not method_of(recipe).trains_base and train.gradient_checkpointing:
        work = flops * 3 / 2  # forward again on top of forward and half a backward
    small = min(1.0, train.micro_batch_rows * length / parallel.sequence / SMALL)
    peak = device.peak_in(train.precision)
    work += 2 * shape.teacher_parameters * tokens  # a live teacher's forward passes are none of the model's FLOPs
    compute = work / workers / (peak * COMPUTE_EFFICIENCY * small) * _slowest_stage(shape, parallel.pipeline)
    sent = traffic(recipe, shape)
    _, trained = stage_parameters(recipe, shape, 0)
    ranks = workers // (parallel.tensor * parallel.pipeline) if parallel.zero else 1
    return StepTime(
        compute_s=compute,
        communication_s=_exposed(recipe, sent, cluster, compute),
        optimizer_s=28 * trained / ranks / device.memory_rate,  # reads and writes masters, moments and gradients
        bubble=bubble(parallel.pipeline, micro_steps(recipe)),
        tokens=tokens,
        model_flops=flops,
        peak_flops=peak * workers,
    )


def _slowest_stage(shape: ModelShape, pipeline: int) -> float:
    """Its work over the mean of all."""
    layer = sum(linear.num_parameters for linear in shape.linears)
    head = shape.hidden_size * shape.vocab_size
    work = [count * layer for count in stage_layers(shape, pipeline)]
    work[-1] += head
    return max(work) * pipeline / sum(work)


def flops_per_token(recipe: Recipe, shape: ModelShape) -> float:
    """6 for each weight that a token meets (4 where it is frozen), and causal attention over the whole row."""
    met = sum(linear.inputs * linear.outputs * linear.active for linear in shape.linears) * shape.num_layers
    met += shape.hidden_size * shape.vocab_size
    attention = 6 * shape.num_layers * shape.num_heads * shape.head_size * recipe.data.max_tokens
    return flops_per_weight(recipe, shape.num_layers) * met + attention_passes(recipe) * attention


def _exposed(recipe: Recipe, sent: Traffic, cluster: Cluster, compute_s: float) -> float:
    """Seconds. Groups of neighbours (tensor, then sequence) stay on a node as long as they fit on it.

    Only ZeRO 3's gathering of weights is counted as hidden, behind all passes. That its gradients are summed beside
    backward (recipe/overlap.py) is not: by how much nobody has measured here.
    """
    parallel, per_node = recipe.parallel, cluster.devices_per_node

    def seconds(sent_bytes: int, span: int) -> float:
        device = cluster.device
        rate = device.node_rate if span <= per_node else device.network_rate
        return sent_bytes / (rate * LINK_EFFICIENCY)

    inner = parallel.tensor * parallel.sequence
    replicas = recipe.cluster.workers // (parallel.pipeline * inner)
    gathered = seconds(sent.weights, inner * replicas)
    return (
        seconds(sent.tensor, parallel.tensor)
        + seconds(sent.sequence, inner)
        + seconds(sent.gradients, inner * replicas)
        + seconds(sent.pipeline, recipe.cluster.workers)
        + max(0.0, gathered - compute_s)
    )
