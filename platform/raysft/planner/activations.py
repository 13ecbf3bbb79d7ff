"""What autograd keeps of one decoder layer for every token, module by module.

For GPT with attention scores this is Korthikanti et al. 2022 (arXiv:2205.05198), equations 1 and 2:
34 s b h + 5 a s^2 b bytes, with t tensor-parallel ranks 10 + 24/t + 5as/(ht). Other shapes differ in their norms,
heads, gates and attention, so each module has a line of its own. Checked against saved_tensors_hooks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from raysft.recipe.adapter_sizes import Kept
from raysft.recipe.facts import Linear, ModelShape

Attention = Literal["varlen", "segments", "mask", "scores"]
"""varlen: a flash kernel over packed segments. segments: SDPA for each segment, then joined. mask: SDPA with a mask
per row. scores: all attention scores are kept (eager, or a GPT before flash attention)."""

FLOAT32 = 4

_SAVED_BY_ACTIVATION = {"relu": 0, "gelu_new": 4, "gelu_fast": 4}
"""Tensors of its width that an activation keeps; its output, the input of the next layer, is not among them.
gelu_new and gelu_fast are written out in transformers. All others are one kernel that keeps its input."""


@dataclass(frozen=True)
class ForwardPass:
    """One forward pass on one rank."""

    rows: int
    row_tokens: int
    """On this rank: with sequence parallelism a part of the row."""
    whole_row_tokens: int
    working: int
    """Bytes of a number in the working precision."""
    attention: Attention
    tensor: int = 1
    """Tensor-parallel ranks."""

    @property
    def tokens(self) -> int:
        """Tokens on this rank."""
        return self.rows * self.row_tokens


@dataclass(frozen=True)
class Training:
    """What of a layer is trained."""

    weights: bool
    """Its own weights."""
    adapters: Mapping[str, Kept] = field(default_factory=dict)
    """{linear layer with an adapter: what is kept for it}."""


@dataclass(frozen=True)
class Saved:
    """One tensor that is kept until backward."""

    name: str
    bytes_per_token: float
    is_split: bool
    """Each tensor-parallel rank keeps its part."""


def layer(shape: ModelShape, training: Training, run: ForwardPass) -> Iterator[Saved]:
    """Everything that one layer keeps; bytes for each token of this rank."""
    yield from _norms(shape, training, run)
    yield from _attention(shape, run)
    yield from _mlp(shape, run)
    yield from _inputs(shape, training, run)
    if shape.dropout:  # one mask of bytes after attention, one after the MLP
        yield Saved("dropout masks", 2 * shape.hidden_size, False)


def layer_bytes(shape: ModelShape, training: Training, run: ForwardPass) -> int:
    """Bytes that one layer keeps for one forward pass on one rank."""
    total = sum(
        saved.bytes_per_token / (run.tensor if saved.is_split else 1) for saved in layer(shape, training, run)
    )
    return round(total * run.tokens)


def outer_bytes(shape: ModelShape, training: Training, run: ForwardPass) -> tuple[int, int]:
    """What is kept outside the layers: (at the embedding, at the final norm)."""
    rotary = 0 if shape.position_rows else 2 * shape.head_size * run.working
    ids = 2 * 8  # token and position ids, int64
    final = sum(saved.bytes_per_token for saved in _norm(shape, shape.hidden_size, training, run, 1))
    return (rotary + ids) * run.tokens, round(final * run.tokens)


def _norms(shape: ModelShape, training: Training, run: ForwardPass) -> Iterator[Saved]:
    hidden = shape.hidden_size
    for number, width in enumerate(size for size in shape.norms if size == hidden):
        shared = shape.parallel and number == 1  # reads the residual that the first norm has kept
        for saved in _norm(shape, width, training, run, 1):
            if not (shared and saved.name == "norm input"):
                yield saved
    widths = (shape.num_heads, shape.num_kv_heads)
    for heads, width in zip(widths, (size for size in shape.norms if size != hidden), strict=False):
        for saved in _norm(shape, width, training, run, heads):
            yield Saved("head " + saved.name, saved.bytes_per_token, True)


def _norm(shape: ModelShape, width: int, training: Training, run: ForwardPass, count: int) -> Iterator[Saved]:
    """One norm over `width`, `count` times a token. Its output is the next module's input and counted there."""
    if shape.norm == "layer":
        yield Saved("norm input", count * width * run.working, False)
        yield Saved("norm statistics", count * 2 * FLOAT32, False)
        return
    # transformers' RMSNorm computes in float32: x, 1 / rms and x / rms as its weight's gradient needs it
    yield Saved("norm input", count * width * FLOAT32, False)
    yield Saved("norm statistics", count * FLOAT32, False)
    if training.weights:
        normalised = FLOAT32 if shape.norm == "rms_fp32" else run.working
        yield Saved("normalised", count * width * normalised, False)


def _attention(shape: ModelShape, run: ForwardPass) -> Iterator[Saved]:
    queries, keys = shape.num_heads * shape.head_size, shape.num_kv_heads * shape.head_size
    if run.attention in ("mask", "scores"):
        keys = queries  # repeated for every query head
    kept = queries + 2 * keys
    if shape.keeps_fused_output:
        kept += 2 * queries
    yield Saved("queries, keys, values", kept * run.working, True)
    if run.attention == "scores":
        per_score = run.working + (FLOAT32 if run.working != FLOAT32 else 0)
        if shape.dropout:  # a GPT of the paper: softmax, mask of bytes, output of the dropout
            per_score = 2 * run.working + 1
        yield Saved("attention scores", per_score * shape.num_heads * run.whole_row_tokens, True)
        return
    yield Saved("log-sum-exp", shape.num_heads * FLOAT32, True)
    if run.attention == "mask":
        yield Saved("mask", run.working * run.whole_row_tokens, False)
    if run.attention == "segments" or shape.keeps_fused_output or run.row_tokens < run.whole_row_tokens:
        yield Saved("outputs before they are joined or exchanged", queries * run.working, True)


def _mlp(shape: ModelShape, run: ForwardPass) -> Iterator[Saved]:
    inner = sum(linear.inputs * linear.active for linear in shape.linears if linear is _down(shape))
    yield Saved("activation", _SAVED_BY_ACTIVATION.get(shape.activation, 1) * inner * run.working, True)
    if shape.is_gated:  # act(gate) * up keeps both
        yield Saved("gate product", 2 * inner * run.working, True)


def _down(shape: ModelShape) -> Linear:
    """The MLP's last linear layer."""
    return [linear for linear in shape.linears if linear.split == "row"][-1]


def _inputs(shape: ModelShape, training: Training, run: ForwardPass) -> Iterator[Saved]:
    """Inputs of linear layers: layers that read the same tensor keep it once. A frozen one keeps none."""
    seen: set[tuple[int, str]] = set()
    part = "attention"
    for linear in shape.linears:
        source = (linear.inputs, f"{part} {linear.split}")
        kept = training.adapters.get(linear.name)
        if (training.weights or (kept is not None and kept.reads_input)) and source not in seen:
            seen.add(source)
            is_split = linear.split == "row"
            yield Saved(f"input of {linear.name}", linear.inputs * linear.active * run.working, is_split)
        if kept is not None:
            yield Saved(f"adapter of {linear.name}", kept.width * run.working, False)
        if linear.split == "row":
            part = "mlp"
