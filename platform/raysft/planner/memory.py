"""Predicted peak memory of every pipeline stage's ranks, by class.

Owns how parameters fall on stages and shards, and what exists only for a while: a chunk of logits, buckets, gathered
weights. Model states are in states.py, what autograd keeps in activations.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache

from raysft.planner.activations import FLOAT32, Attention, ForwardPass, Training, layer_bytes, outer_bytes
from raysft.planner.rank_memory import RankMemory
from raysft.planner.states import Basis, basis, model_states, state_bytes, states_on_device, teacher_bytes
from raysft.recipe.change import change
from raysft.recipe.facts import ModelShape
from raysft.recipe.flops import graphs_at_once
from raysft.recipe.objective_traits import auxiliary_parameters, head_of
from raysft.recipe.overlap import overlaps
from raysft.recipe.schema import Recipe
from raysft.recipe.stage_balance import balance
from raysft.recipe.traits import method_of, virtual_tokens

REDUCE_BUCKET = 50_000_000
"""Elements of reduce_bucket_size (engine/ds_config.py), which DeepSpeed allocates whole under ZeRO 1 to 3."""

PREFETCH_BUCKET = 50_000_000
"""DeepSpeed's stage3_prefetch_bucket_size: elements that are gathered at a time."""

SUB_GROUP = 1_000_000_000
"""DeepSpeed's sub_group_size: elements of a rank that ZeRO 3 updates at a time."""

MAX_LIVE_PARAMETERS = 1_000_000_000
"""DeepSpeed's stage3_max_live_parameters and stage3_max_reuse_distance: gathered weights kept at a time."""

FOUR_BITS = (4 + 8 / 64 + 32 / (64 * 256)) / 8
"""Bytes of a weight in 4 bits: scales of 64 weights in 8 bits, of 256 such in fp32 (arXiv:2305.14314, section 3)."""


def predict(recipe: Recipe, shape: ModelShape, *, is_gpu: bool) -> RankMemory:
    """The fullest rank. Its layout must be one that the matrix allows."""
    return max(stages(recipe, shape, is_gpu=is_gpu), key=lambda rank: rank.total)


def stages(recipe: Recipe, shape: ModelShape, *, is_gpu: bool) -> list[RankMemory]:
    """A rank of each pipeline stage; all ranks of a stage hold the same."""
    return [_rank(recipe, shape, stage, is_gpu=is_gpu) for stage in range(recipe.parallel.pipeline)]


def bytes_basis(recipe: Recipe) -> Basis:
    """The bytes a parameter that the prediction counts with."""
    return basis(recipe.train.precision, recipe.parallel.zero, recipe.optimizer.moments)


@cache
def stage_layers(shape: ModelShape, pipeline: int) -> tuple[int, ...]:
    """Layers of each stage, balanced as model/stages.py does: weights a token meets, the head with the last layer."""
    costs = [float(sum(linear.num_parameters for linear in shape.linears))] * shape.num_layers
    costs[-1] += shape.hidden_size * shape.vocab_size
    return tuple(len(part) for part in balance(costs, pipeline))


def stage_parameters(recipe: Recipe, shape: ModelShape, stage: int) -> tuple[int, int]:
    """(parameters, trained parameters) of a rank of one stage; tensor parallelism splits linear layers only."""
    parallel = recipe.parallel
    first, last = stage == 0, stage == parallel.pipeline - 1
    split = sum(linear.num_parameters for linear in shape.linears) / parallel.tensor
    layers = stage_layers(shape, parallel.pipeline)[stage]
    whole = layers * round(split + shape.norm_parameters) + first * shape.embedding_parameters
    whole += last * shape.head_parameters
    if last and not first and shape.tied:  # both ends of the pipeline hold the shared weight
        whole += shape.hidden_size * shape.vocab_size
    new = last * (head_of(recipe) * shape.hidden_size + auxiliary_parameters(recipe, shape.hidden_size))
    if method_of(recipe).trains_base:
        return whole + new, round(method_of(recipe).trained_share(recipe.method, shape.num_layers) * whole) + new
    adapters = layers * adapter_parameters(recipe, shape) + method_of(recipe).outer_parameters(recipe.method, shape)
    return whole + adapters + new, adapters + new


def adapter_parameters(recipe: Recipe, shape: ModelShape) -> int:
    """Adapter weights of one layer on one rank."""
    return method_of(recipe).layer_parameters(recipe.method, shape, recipe.parallel.tensor)


def adapted_names(recipe: Recipe, shape: ModelShape) -> frozenset[str]:
    """Linear layers with an adapter; experts are no layers."""
    return method_of(recipe).adapted(recipe.method, shape)


def attention_kind(recipe: Recipe, *, is_gpu: bool) -> Attention:
    """How attention is computed: see model/fast/attention.py."""
    if recipe.model.attention == "eager":
        return "scores"
    return "varlen" if is_gpu else "segments"


def forward_pass(recipe: Recipe, *, is_gpu: bool) -> ForwardPass:
    """One micro-batch on one rank. Rows are padded to a multiple of the sequence-parallel ranks.

    Virtual tokens are counted for one sample of a row: how many it has is not known before the data is.
    """
    parallel, length = recipe.parallel, recipe.data.max_tokens + virtual_tokens(recipe)
    return ForwardPass(
        rows=recipe.train.micro_batch_rows,
        row_tokens=math.ceil(length / parallel.sequence),
        whole_row_tokens=length,
        working=_working(recipe),
        attention=attention_kind(recipe, is_gpu=is_gpu),
        tensor=parallel.tensor,
    )


def chunk_targets(vocab_size: int, *, is_gpu: bool, working: int, is_trained: bool) -> int:
    """Targets whose logits exist at a time: loss_head.py's rule. working: bytes of a parameter in the passes."""
    if is_gpu:
        logits, most = (2**28, 2048) if is_trained else (2**27, 1024)
        return min(max(logits // vocab_size, 256), most)
    logits, least = (2**24, 32) if working == FLOAT32 else (2**26, 256)
    return min(max(logits // vocab_size, least), 1024)


def _rank(recipe: Recipe, shape: ModelShape, stage: int, *, is_gpu: bool) -> RankMemory:
    parallel = recipe.parallel
    parameters, trained = stage_parameters(recipe, shape, stage)
    ranks = recipe.cluster.workers // (parallel.tensor * parallel.pipeline)  # replicas x sequence
    zero = 1 if recipe.train.precision == "bf16" and parallel.zero == 0 else parallel.zero
    states = model_states(parameters, trained, ranks, zero, bytes_basis(recipe))
    if method_of(recipe).is_four_bit(recipe.method):  # data parallelism, ZeRO 0 to 2: all layers, nothing partitioned
        packed = shape.num_layers * sum(one.num_parameters for one in shape.linears if one.copies == 1)
        states = replace(states, parameters=states.parameters - round(packed * (_working(recipe) - FOUR_BITS)))
    if parallel.offload == "cpu" and is_gpu:
        states = states_on_device(states, zero, _working(recipe) * trained)
    activations = _activations(recipe, shape, stage, is_gpu=is_gpu)
    logits = _logits(recipe, shape, is_gpu=is_gpu) if stage == parallel.pipeline - 1 else 0
    copies = _copies(recipe, shape, (parameters, trained), ranks, zero, is_gpu=is_gpu)
    return RankMemory(
        stage=stage,
        states=states,
        activations=activations,
        logits=logits,
        buffers=max(copies.in_passes, copies.afterwards - activations - logits),
        saved=0 if is_gpu else saved_share(recipe, shape, stage),
        teachers=teacher_bytes(shape, _working(recipe)),
    )


def saved_share(recipe: Recipe, shape: ModelShape, stage: int) -> int:
    """Bytes that a rank of one stage writes of a commit. Ranks that hold the same give equal parts of it: those of
    tensor parallelism, too, of norms and embeddings."""
    ranks, whole = recipe.cluster.workers // recipe.parallel.pipeline, change(recipe, {"parallel.tensor": 1})
    return state_bytes(recipe.optimizer.moments) * stage_parameters(whole, shape, stage)[1] // ranks


def saved_activations(recipe: Recipe, shape: ModelShape, stage: int, *, is_gpu: bool) -> int:
    """What autograd keeps on a rank of one stage after the forward pass of one micro-batch, up to the head."""
    parallel, run = recipe.parallel, forward_pass(recipe, is_gpu=is_gpu)
    layers = stage_layers(shape, parallel.pipeline)[stage]
    if recipe.train.gradient_checkpointing:  # every layer keeps its input only
        kept = layers * run.tokens * shape.hidden_size * run.working
    else:
        kept = layers * layer_bytes(shape, _training(recipe, shape), run)
    embedding, final = outer_bytes(shape, _training(recipe, shape), run)
    return kept + embedding + (final if stage == parallel.pipeline - 1 else 0)


def _training(recipe: Recipe, shape: ModelShape) -> Training:
    method, adapted = method_of(recipe), adapted_names(recipe, shape)
    kept = {linear.name: method.kept(recipe.method, linear) for linear in shape.linears if linear.name in adapted}
    return Training(method.trains_base, kept)


def _activations(recipe: Recipe, shape: ModelShape, stage: int, *, is_gpu: bool) -> int:
    """Bytes for all micro-batches in flight: min(stages - stage, micro-steps) in 1F1B (Narayanan et al. 2021)."""
    run = forward_pass(recipe, is_gpu=is_gpu)
    in_flight = min(recipe.parallel.pipeline - stage, micro_steps(recipe))
    kept = graphs_at_once(recipe) * in_flight * saved_activations(recipe, shape, stage, is_gpu=is_gpu)
    if recipe.train.gradient_checkpointing:  # and one layer at a time is whole again
        kept += layer_bytes(shape, _training(recipe, shape), run)
    inner = max(linear.inputs * linear.active for linear in shape.linears if linear.split == "row")
    widest = (3 if shape.is_gated else 2) * inner // run.tensor + shape.hidden_size
    return kept + run.tokens * widest * run.working  # gradients inside the layer that backward has reached


def micro_steps(recipe: Recipe) -> int:
    """Forward passes of a replica in one step."""
    parallel = recipe.parallel
    replicas = recipe.cluster.workers // (parallel.tensor * parallel.pipeline * parallel.sequence)
    return math.ceil(recipe.train.rows_per_step / (replicas * recipe.train.micro_batch_rows))


def _logits(recipe: Recipe, shape: ModelShape, *, is_gpu: bool) -> int:
    """The fused head: a chunk's logits; the hidden states, those of the targets and their gradients; that of the
    weight, in fp32."""
    run = forward_pass(recipe, is_gpu=is_gpu)
    is_trained = method_of(recipe).trains_base
    rule = chunk_targets(shape.vocab_size, is_gpu=is_gpu, working=run.working, is_trained=is_trained)
    chunk = min(rule, run.tokens)
    copies = 1 if run.working == FLOAT32 else 2  # the raw output, and the errors in the working precision
    logits = chunk * shape.vocab_size * (FLOAT32 + copies * run.working)
    hidden = run.tokens * shape.hidden_size * run.working
    weight = shape.hidden_size * shape.vocab_size * FLOAT32 if is_trained else 0
    return logits + 3 * hidden + weight


@dataclass(frozen=True)
class _Copies:
    """What DeepSpeed 0.19.8 copies gradients and gathered weights into, in bytes."""

    in_passes: int
    """Beside activations and logits."""
    afterwards: int
    """When these are gone: sums of gradients that are made at the end, the update."""


def _copies(
    recipe: Recipe, shape: ModelShape, counts: tuple[int, int], ranks: int, zero: int, *, is_gpu: bool
) -> _Copies:
    """counts: parameters of the rank, trained ones.

    Gradients are summed over the ranks from a flat copy of so many, in the precision of that sum: engine.py,
    allreduce_bucket (ZeRO 0, bf16 ZeRO 1, pipelines); stage_1_and_2.py, average_tensor, and coalesced_collectives.py,
    reduce_scatter_coalesced, copy a bucket that they have filled before. Weights are gathered flat and then copied
    apart (partition_parameters.py, AllGatherCoalescedHandle); gloo, on CPUs, gathers all that is on its way into
    tensors of its own before. The update flattens gradients once more (stage3.py, _prepare_fp32_grad_for_sub_group;
    stage_1_and_2.py, step). On a CPU, what is never written takes no memory.
    """
    parameters, trained = counts
    working, parallel = _working(recipe), recipe.parallel
    summed = 2 if (recipe.train.reduce_precision or recipe.train.precision) == "bf16" else FLOAT32
    if working == 2 and (parallel.pipeline > 1 or zero <= 1):
        return _Copies(0, _flat_sums_copied(trained, summed, _largest_trained(recipe, shape)))
    if parallel.pipeline > 1 or zero == 0:
        moved = min(trained, REDUCE_BUCKET + _largest_trained(recipe, shape))
        return _Copies(0, moved * (FLOAT32 + (summed if summed < FLOAT32 else 0)))
    filled, own = min(trained, REDUCE_BUCKET), trained // ranks
    held = (2 if overlaps(recipe) and zero < 3 else 1) * summed * (REDUCE_BUCKET if is_gpu else filled)
    passing = summed * filled
    if parallel.secondary_shards > 1:  # ZeRO++'s second copy, kept between the passes (arXiv:2306.10209)
        held += working * parameters // parallel.secondary_shards
    if zero == 1:  # gradients move into the bucket as it is written, when all of them are there
        return _Copies(held if is_gpu else 0, passing)
    if zero == 2:
        is_summed_apart = working == FLOAT32 and micro_steps(recipe) > 1  # a micro-batch's besides the sum of them
        own_again = FLOAT32 * own if working == FLOAT32 else 0
        return _Copies(held + passing + is_summed_apart * own_again, own_again)
    if ranks > 1:
        held += working * min(parameters, MAX_LIVE_PARAMETERS)
        on_the_way = PREFETCH_BUCKET if is_gpu else 2 * PREFETCH_BUCKET  # the one that is waited for and the next
        passing = max(passing, working * min(parameters, on_the_way))
    return _Copies(held + passing, FLOAT32 * min(own, SUB_GROUP))


def _flat_sums_copied(trained: int, summed: int, largest: int) -> int:
    """What BF16_Optimizer copies, whose fp32 sums are flat: a gradient on its way into them; then all of them in the
    precision in which ranks are summed, if it is another. Those smaller than a bucket are joined before."""
    joined = FLOAT32 * trained if trained <= REDUCE_BUCKET else 0
    return max(FLOAT32 * largest, joined + (summed * trained if summed < FLOAT32 else 0))


def _largest_trained(recipe: Recipe, shape: ModelShape) -> int:
    """Elements of the largest tensor that is trained: a bucket is full when it has more than it should."""
    if not method_of(recipe).trains_base:
        return 0  # adapters are small
    split = max(linear.num_parameters for linear in shape.linears) // recipe.parallel.tensor
    return max(split, shape.hidden_size * shape.vocab_size)


def _working(recipe: Recipe) -> int:
    """Bytes of a parameter in the passes."""
    return 2 if recipe.train.precision == "bf16" else FLOAT32
