"""Adapters inside of layers, and frozen layers: how many numbers they have, and what is told of them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from raysft.recipe.facts import Linear, ModelShape
from raysft.recipe.sections.method import (
    AdaloraMethod,
    BottleneckMethod,
    DoraMethod,
    FreezeMethod,
    Ia3Method,
    LoraMethod,
    LowRankMethod,
)

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Kept:
    """What autograd keeps for the adapter of one linear layer, besides what a frozen layer keeps."""

    reads_input: bool
    """The layer's input is kept; layers that read the same tensor keep it once."""
    width: float
    """Further numbers of each token, in the working precision."""


def ends_in(name: str, targets: tuple[str, ...]) -> bool:
    """peft takes a target as the end of a module's name."""
    return any(name == target or name.endswith(f".{target}") for target in targets)


def is_target(linear: Linear, targets: tuple[str, ...]) -> bool:
    """Do targets name the layer, or the layer in its place (`self_attn.o_proj`)? The shape knows no places: a target
    that names one decoder layer is counted in all of them."""
    return ends_in(linear.name, targets) or any(target.endswith(f".{linear.name}") for target in targets)


def lora_adapted(method: LowRankMethod | AdaloraMethod, shape: ModelShape) -> frozenset[str]:
    """Linear layers with an adapter of low rank."""
    targets = method.target_modules
    return frozenset(
        linear.name
        for linear in shape.linears
        if linear.copies == 1 and (targets == ("all-linear",) or is_target(linear, targets))
    )


def by_place(pattern: Mapping[str, Number]) -> dict[str, Number]:
    """Numbers of layers by the ends of their names: the name that says more of a layer's place first, whatever their
    order in the recipe. The first one that fits counts (peft)."""
    return dict(sorted(pattern.items(), key=lambda item: (-item[0].count("."), item[0])))


def rank_of(method: LowRankMethod, linear: Linear) -> int:
    """Rank of a layer's adapter; the largest one where names that say one decoder layer give it several."""
    fits = [(name, rank) for name, rank in by_place(method.ranks).items() if is_target(linear, (name,))]
    of_one = [rank for name, rank in fits if any(part.isdigit() for part in name.split("."))]
    everywhere = [rank for name, rank in fits if not any(part.isdigit() for part in name.split("."))]
    return max([*everywhere[:1], *of_one] if everywhere else [method.rank, *of_one])


def lora_parameters(method: LowRankMethod, shape: ModelShape, tensor: int) -> int:
    """rank x (inputs + outputs) of each adapted linear layer (arXiv:2106.09685).

    Under all-linear each expert of a mixture has its own; where their input matrices are one, it is counted as two.
    """
    total, adapted = 0, lora_adapted(method, shape)
    for linear in shape.linears:
        if linear.copies > 1 and method.target_modules == ("all-linear",):
            total += linear.copies * rank_of(method, linear) * (linear.inputs + linear.outputs)
        elif linear.name in adapted:
            inputs = linear.inputs // (tensor if linear.split == "row" else 1)
            outputs = linear.outputs // (tensor if linear.split == "column" else 1)
            total += rank_of(method, linear) * (inputs + outputs)
    return total


def low_rank_ratio(method: LowRankMethod, name: str) -> float:
    """LoRA+: what the learning rate of a matrix B is multiplied by."""
    return method.b_learning_rate_ratio if ".lora_B." in name or ".lora_embedding_B." in name else 1.0


STARTS = {
    "pissa": "the largest singular values of the weights",
    "olora": "the QR decomposition of the weights",
    "eva": "the directions in which the inputs of the layers vary most",
}
"""{method.init: what is computed for it}."""


def lora_details(method: LowRankMethod) -> str:
    """All numbers of LoRA or DoRA in a few words."""
    scale = "rank-stabilised, " if method.rslora else ""
    ratio = method.b_learning_rate_ratio
    others = "".join(f"{name} {rank}, " for name, rank in method.ranks.items())
    rate = f"B {ratio:g} times as fast, " if ratio != 1 else ""
    begin = f"{method.init}, " if isinstance(method, LoraMethod) and method.init != "random" else ""
    base = ", base in 4 bits" if isinstance(method, LoraMethod) and method.base_precision == "nf4" else ""
    numbers = f"{begin}rank {method.rank}, {others}alpha {method.alpha:g}, {scale}{rate}"
    return f"{numbers}on {', '.join(method.target_modules)}{base}"


def dora_parameters(method: DoraMethod, shape: ModelShape, tensor: int) -> int:
    """LoRA's, and a magnitude for each output (arXiv:2402.09353)."""
    adapted = lora_adapted(method, shape)
    magnitudes = sum(linear.outputs for linear in shape.linears if linear.name in adapted)
    return lora_parameters(method, shape, tensor) + magnitudes


def dora_kept(method: DoraMethod, linear: Linear) -> Kept:
    """LoRA's, and the outputs of layer and adapter, which the magnitudes scale."""
    return Kept(reads_input=True, width=(rank_of(method, linear) + 2 * linear.outputs) * linear.active)


def adalora_parameters(method: AdaloraMethod, shape: ModelShape, tensor: int) -> int:
    """rank x (inputs + outputs + 1) of each adapted layer (arXiv:2303.10512): ranks given up stay in memory."""
    adapted = lora_adapted(method, shape)
    return sum(method.rank * (one.inputs + one.outputs + 1) for one in shape.linears if one.name in adapted)


def adalora_details(method: AdaloraMethod) -> str:
    """All numbers of AdaLoRA in a few words."""
    ranks = f"rank {method.rank} to {method.target_rank}"
    return f"{ranks}, alpha {method.alpha:g}, on {', '.join(method.target_modules)}"


def ia3_adapted(method: Ia3Method, shape: ModelShape) -> frozenset[str]:
    """Linear layers with scales."""
    return frozenset(
        linear.name for linear in shape.linears if linear.copies == 1 and is_target(linear, method.target_modules)
    )


def ia3_parameters(method: Ia3Method, shape: ModelShape, tensor: int) -> int:
    """A scale for each input or output of an adapted layer (arXiv:2205.05638)."""
    adapted = [linear for linear in shape.linears if linear.name in ia3_adapted(method, shape)]
    return sum(linear.inputs if _scales_inputs(method, linear) else linear.outputs for linear in adapted)


def _scales_inputs(method: Ia3Method, linear: Linear) -> bool:
    return is_target(linear, method.feedforward_modules)


def ia3_kept(method: Ia3Method, linear: Linear) -> Kept:
    """What the scales multiply: inputs, or outputs before they are scaled."""
    of_inputs = _scales_inputs(method, linear)
    return Kept(reads_input=of_inputs, width=0 if of_inputs else linear.outputs * linear.active)


def freeze_share(method: FreezeMethod, num_layers: int) -> float:
    """By layers; all of it where names are given: what they fit is not known before there is a model."""
    return 1.0 if method.parameters else min(method.num_layers / num_layers, 1.0)


def freeze_details(method: FreezeMethod) -> str:
    """What is trained, in a few words."""
    if isinstance(method.layers, int):
        which = "last" if method.layers > 0 else "first"
        layers = [f"the {which} {method.num_layers} layers"] if method.layers else []
    else:
        layers = [f"layers {method.layers.replace(',', ', ')}"]
    every = method.unfreeze_every_steps
    gradually = [f"a further layer every {every} steps"] if every else []
    return ", ".join([*layers, *gradually, *method.parameters])


REDUCTION_FACTOR = 16
"""method.reduction_factor where a recipe says neither that nor bottleneck_size."""


def bottleneck_size(method: BottleneckMethod, width: int) -> int:
    """Hidden size of an adapter of a layer that gives so many numbers: at least 1."""
    return method.bottleneck_size or max(1, width // (method.reduction_factor or REDUCTION_FACTOR))


def bottleneck_adapted(method: BottleneckMethod, shape: ModelShape) -> frozenset[str]:
    """Linear layers with an adapter behind them: the one out of the MLP, and under Houlsby out of attention."""
    out = [linear.name for linear in shape.linears if linear.split == "row"]
    return frozenset(out if method.placement == "houlsby" else out[-1:])


def bottleneck_parameters(method: BottleneckMethod, shape: ModelShape, tensor: int) -> int:
    """Two linear layers with biases, whole on every rank, for each adapter (arXiv:1902.00751, 2 m d + d + m)."""
    width = shape.hidden_size
    size = bottleneck_size(method, width)
    return len(bottleneck_adapted(method, shape)) * (2 * size * width + size + width)


def bottleneck_kept(method: BottleneckMethod, linear: Linear) -> Kept:
    """Inputs of both of its layers; and of the activation, where that keeps its input (relu keeps what it gives)."""
    size = bottleneck_size(method, linear.outputs)
    return Kept(reads_input=False, width=linear.outputs + (1 if method.activation == "relu" else 2) * size)


def bottleneck_width(method: BottleneckMethod) -> str:
    """How wide adapters are, in a few words."""
    if method.bottleneck_size:
        return f"{method.bottleneck_size} wide"
    return f"1/{method.reduction_factor or REDUCTION_FACTOR} of the model's width"


def bottleneck_details(method: BottleneckMethod) -> str:
    """All of its numbers in a few words."""
    place = "attention and MLP" if method.placement == "houlsby" else "the MLP"
    return f"behind {place} ({method.placement}), {bottleneck_width(method)}, {method.activation}"
