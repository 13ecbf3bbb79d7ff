"""What each method is, as the matrix, the planner, exports and cards ask. A pure table.

A new kind is one entry here and what acts in model/methods/.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from raysft.recipe.facts import Linear, ModelShape
from raysft.recipe.schema import Recipe
from raysft.recipe.sections.method import AdaloraMethod, DoraMethod, FreezeMethod, Ia3Method, LowRankMethod
from raysft.recipe.virtual_tokens import (
    p_tuning_details,
    p_tuning_parameters,
    prefix_details,
    prefix_parameters,
    prompt_details,
    prompt_parameters,
)

Ability = Literal["pipeline", "tensor", "sequence", "shared_base"]


@dataclass(frozen=True)
class Kept:
    """What autograd keeps for the adapter of one linear layer, besides what a frozen layer keeps."""

    reads_input: bool
    """The layer's input is kept; layers that read the same tensor keep it once."""
    width: float
    """Further numbers of each token, in the working precision."""


@dataclass(frozen=True)
class MethodTraits:
    """A method, as far as it can be told without torch. Its functions get the section of its kind."""

    title: str
    """In reports and cards."""
    base: Literal["trained", "frozen"]
    """Are the model's own weights trained?"""
    exports: tuple[str, ...]
    """Parts that an export can have."""
    allows: frozenset[Ability]
    """What goes with it besides data parallelism; shared_base: trials on one base, in one pass."""
    adapted: Callable[[Any, ModelShape], frozenset[str]] = lambda method, shape: frozenset()
    """Linear layers of a decoder layer that carry an adapter, experts left out."""
    layer_parameters: Callable[[Any, ModelShape, int], int] = lambda method, shape, tensor: 0
    """Adapter weights of one decoder layer, on one of so many tensor-parallel ranks."""
    outer_parameters: Callable[[Any, ModelShape], int] = lambda method, shape: 0
    """Adapter weights outside of the decoder layers."""
    kept: Callable[[Any, Linear], Kept] = lambda method, linear: Kept(reads_input=False, width=0)
    """Numbers that autograd keeps for an adapted layer."""
    trained_share: Callable[[Any, int], float] = lambda method, num_layers: 1.0
    """Share of the model's own weights that is trained, where they are, of a model of so many decoder layers."""
    learning_rate_ratio: Callable[[Any, str], float] = lambda method, name: 1.0
    """What the learning rate is multiplied by for the trained parameter of that name."""
    drops: Callable[[Any], bool] = lambda method: False
    """Does it draw random numbers in a forward pass?"""
    size: Callable[[Any], str] = lambda method: ""
    """How large its adapters are, in a few words; empty: it has none."""
    details: Callable[[Any], str] = lambda method: ""
    """All of its numbers in a few words; empty: it has none."""
    begins_with: Callable[[Any], str] = lambda method: ""
    """What of the model's weights its adapters begin with, in words; then every worker loads them whole. Empty:
    nothing."""
    virtual_tokens: Callable[[Any], int] = lambda method: 0
    """Tokens that it puts before every sample, besides those that data.max_tokens counts."""

    @property
    def trains_base(self) -> bool:
        """Do the model's own weights get gradients?"""
        return self.base == "trained"

    def flops_per_weight(self, method: Any, num_layers: int) -> float:
        """Forward and backward of a token (PaLM, Chowdhery et al. 2022, appendix B): 2 for the forward, 2 for the
        gradient that is passed on, 2 for that of a weight that is trained. (Below the first trained layer nothing is
        passed on: that is not taken off.)"""
        return 4 + 2 * self.trained_share(method, num_layers) if self.trains_base else 4


def ends_in(name: str, targets: tuple[str, ...]) -> bool:
    """peft takes a target as the end of a module's name."""
    return any(name == target or name.endswith(f".{target}") for target in targets)


def _is_target(linear: Linear, targets: tuple[str, ...]) -> bool:
    """Do targets name the layer, or the layer in its place (`self_attn.o_proj`)? The shape knows no places: a target
    that names one decoder layer is counted in all of them."""
    return ends_in(linear.name, targets) or any(target.endswith(f".{linear.name}") for target in targets)


def _lora_adapted(method: LowRankMethod | AdaloraMethod, shape: ModelShape) -> frozenset[str]:
    targets = method.target_modules
    return frozenset(
        linear.name
        for linear in shape.linears
        if linear.copies == 1 and (targets == ("all-linear",) or _is_target(linear, targets))
    )


def _lora_parameters(method: LowRankMethod, shape: ModelShape, tensor: int) -> int:
    """rank x (inputs + outputs) of each adapted linear layer (arXiv:2106.09685).

    Under all-linear each expert of a mixture has its own; where their input matrices are one, it is counted as two.
    """
    total, adapted = 0, _lora_adapted(method, shape)
    for linear in shape.linears:
        if linear.copies > 1 and method.target_modules == ("all-linear",):
            total += linear.copies * method.rank * (linear.inputs + linear.outputs)
        elif linear.name in adapted:
            inputs = linear.inputs // (tensor if linear.split == "row" else 1)
            outputs = linear.outputs // (tensor if linear.split == "column" else 1)
            total += method.rank * (inputs + outputs)
    return total


def _low_rank_ratio(method: LowRankMethod, name: str) -> float:
    return method.b_learning_rate_ratio if ".lora_B." in name or ".lora_embedding_B." in name else 1.0


def _lora_details(method: LowRankMethod) -> str:
    scale = "rank-stabilised, " if method.rslora else ""
    ratio = method.b_learning_rate_ratio
    rate = f"B {ratio:g} times as fast, " if ratio != 1 else ""
    return f"rank {method.rank}, alpha {method.alpha:g}, {scale}{rate}on {', '.join(method.target_modules)}"


def _dora_parameters(method: DoraMethod, shape: ModelShape, tensor: int) -> int:
    """LoRA's, and a magnitude for each output (arXiv:2402.09353)."""
    adapted = _lora_adapted(method, shape)
    magnitudes = sum(linear.outputs for linear in shape.linears if linear.name in adapted)
    return _lora_parameters(method, shape, tensor) + magnitudes


def _adalora_parameters(method: AdaloraMethod, shape: ModelShape, tensor: int) -> int:
    """rank x (inputs + outputs + 1) of each adapted layer (arXiv:2303.10512): ranks given up stay in memory."""
    adapted = _lora_adapted(method, shape)
    return sum(method.rank * (one.inputs + one.outputs + 1) for one in shape.linears if one.name in adapted)


def _adalora_details(method: AdaloraMethod) -> str:
    ranks = f"rank {method.rank} to {method.target_rank}"
    return f"{ranks}, alpha {method.alpha:g}, on {', '.join(method.target_modules)}"


def _ia3_adapted(method: Ia3Method, shape: ModelShape) -> frozenset[str]:
    return frozenset(
        linear.name for linear in shape.linears if linear.copies == 1 and _is_target(linear, method.target_modules)
    )


def _ia3_parameters(method: Ia3Method, shape: ModelShape, tensor: int) -> int:
    """A scale for each input or output of an adapted layer (arXiv:2205.05638)."""
    adapted = [linear for linear in shape.linears if linear.name in _ia3_adapted(method, shape)]
    return sum(linear.inputs if _scales_inputs(method, linear) else linear.outputs for linear in adapted)


def _scales_inputs(method: Ia3Method, linear: Linear) -> bool:
    return _is_target(linear, method.feedforward_modules)


def _ia3_kept(method: Ia3Method, linear: Linear) -> Kept:
    """What the scales multiply: inputs, or outputs before they are scaled."""
    of_inputs = _scales_inputs(method, linear)
    return Kept(reads_input=of_inputs, width=0 if of_inputs else linear.outputs * linear.active)


def _freeze_share(method: FreezeMethod, num_layers: int) -> float:
    """By layers; all of it where names are given: what they fit is not known before there is a model."""
    return 1.0 if method.parameters else min(abs(method.layers) / num_layers, 1.0)


def _freeze_details(method: FreezeMethod) -> str:
    which = "last" if method.layers > 0 else "first"
    layers = [f"the {which} {abs(method.layers)} layers"] if method.layers else []
    return ", ".join([*layers, *method.parameters])


METHODS: dict[str, MethodTraits] = {
    "full": MethodTraits(
        title="all parameters",
        base="trained",
        exports=("merged",),
        allows=frozenset(("pipeline", "tensor", "sequence")),
    ),
    "freeze": MethodTraits(
        title="some of the parameters",
        base="trained",
        exports=("merged",),
        allows=frozenset(("tensor", "sequence")),
        trained_share=_freeze_share,
        details=_freeze_details,
    ),
    "lora": MethodTraits(
        title="LoRA",
        base="frozen",
        exports=("adapter", "merged"),
        allows=frozenset(("pipeline", "tensor", "sequence", "shared_base")),
        adapted=_lora_adapted,
        layer_parameters=_lora_parameters,
        kept=lambda method, linear: Kept(reads_input=True, width=method.rank * linear.active),
        learning_rate_ratio=_low_rank_ratio,
        drops=lambda method: method.dropout > 0,
        size=lambda method: f"rank {method.rank}",
        details=_lora_details,
    ),
    "dora": MethodTraits(
        title="DoRA",
        base="frozen",
        exports=("adapter", "merged"),
        allows=frozenset(("pipeline", "sequence")),
        adapted=_lora_adapted,
        layer_parameters=_dora_parameters,
        kept=lambda method, linear: Kept(reads_input=True, width=(method.rank + 2 * linear.outputs) * linear.active),
        learning_rate_ratio=_low_rank_ratio,
        drops=lambda method: method.dropout > 0,
        size=lambda method: f"rank {method.rank}",
        details=_lora_details,
        begins_with=lambda method: "norms of the weights",
    ),
    "ia3": MethodTraits(
        title="IA3",
        base="frozen",
        exports=("adapter", "merged"),
        allows=frozenset(("pipeline", "sequence")),
        adapted=_ia3_adapted,
        layer_parameters=_ia3_parameters,
        kept=_ia3_kept,
        details=lambda method: f"scales on {', '.join(method.target_modules)}",
    ),
    "adalora": MethodTraits(
        title="AdaLoRA",
        base="frozen",
        exports=("adapter", "merged"),
        allows=frozenset(("sequence",)),
        adapted=_lora_adapted,
        layer_parameters=_adalora_parameters,
        kept=lambda method, linear: Kept(reads_input=True, width=method.rank * linear.active),
        drops=lambda method: method.dropout > 0,
        size=lambda method: f"rank {method.rank} to {method.target_rank}",
        details=_adalora_details,
    ),
    "prompt": MethodTraits(
        title="prompt tuning",
        base="frozen",
        exports=("adapter",),
        allows=frozenset(),
        outer_parameters=prompt_parameters,
        size=lambda method: f"{method.virtual_tokens} virtual tokens",
        details=prompt_details,
        begins_with=lambda method: "rows of the embedding" if method.init == "vocabulary" else "",
        virtual_tokens=lambda method: method.virtual_tokens,
    ),
    "p_tuning": MethodTraits(
        title="P-tuning",
        base="frozen",
        exports=("adapter",),
        allows=frozenset(),
        outer_parameters=p_tuning_parameters,
        drops=lambda method: method.encoder == "lstm" and method.layers > 1 and method.dropout > 0,
        size=lambda method: f"{method.virtual_tokens} virtual tokens",
        details=p_tuning_details,
        virtual_tokens=lambda method: method.virtual_tokens,
    ),
    "prefix": MethodTraits(
        title="prefix tuning",
        base="frozen",
        exports=("adapter",),
        allows=frozenset(),
        outer_parameters=prefix_parameters,
        size=lambda method: f"{method.virtual_tokens} virtual tokens",
        details=prefix_details,
        virtual_tokens=lambda method: method.virtual_tokens,
    ),
}
"""{method.kind: its traits}."""


def method_of(recipe: Recipe) -> MethodTraits:
    """The traits of a recipe's method."""
    return METHODS[recipe.method.kind]


def virtual_tokens(recipe: Recipe) -> int:
    """Tokens that the recipe's method puts before every sample; so much longer than its text is what is computed."""
    return method_of(recipe).virtual_tokens(recipe.method)
