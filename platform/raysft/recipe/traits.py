"""What each method is, as the matrix, the planner, exports and cards ask. A pure table.

A new kind is one entry here and what acts in model/methods/.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from raysft.recipe.adapter_sizes import (
    STARTS,
    Kept,
    adalora_details,
    adalora_parameters,
    bottleneck_adapted,
    bottleneck_details,
    bottleneck_kept,
    bottleneck_parameters,
    bottleneck_width,
    dora_parameters,
    freeze_details,
    freeze_share,
    ia3_adapted,
    ia3_kept,
    ia3_parameters,
    lora_adapted,
    lora_details,
    lora_parameters,
    low_rank_ratio,
    rank_of,
)
from raysft.recipe.facts import Linear, ModelShape
from raysft.recipe.schema import Recipe
from raysft.recipe.tuners import tuner_adapted, tuner_details, tuner_parameters
from raysft.recipe.virtual_tokens import (
    p_tuning_details,
    p_tuning_parameters,
    prefix_details,
    prefix_parameters,
    prompt_details,
    prompt_parameters,
)

Ability = Literal["pipeline", "tensor", "sequence", "shared_base", "muon"]


@dataclass(frozen=True)
class MethodTraits:
    """A method, as far as it can be told without torch. Its functions get the section of its kind."""

    title: str
    """In reports and cards."""
    base: Literal["trained", "partly trained", "frozen"]
    """Are the model's own weights trained?"""
    exports: tuple[str, ...]
    """Parts that an export can have."""
    library: Literal["peft", "raysft"] = field(default="peft", kw_only=True)
    """Whose files its exported adapter is."""
    allows: frozenset[Ability]
    """What goes with it besides data parallelism; shared_base: trials on one base, in one pass; muon: what it trains
    are matrices whose direction Muon may make orthogonal."""
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
    computed_start: Callable[[Any], str] = lambda method: ""
    """What its adapters begin with, where a task computes it before training, in words; empty: nothing is."""
    places: Callable[[Any], dict[str, str]] = lambda method: {}
    """{field: what it names} of its fields that may hold a path."""
    is_served: Callable[[Any], bool] = lambda method: False
    """Does vLLM load its adapter? It refuses DoRA and whole modules in an adapter, knows no other kind, and scales
    all layers by one rank and one alpha, whatever the adapter's config says of some (vllm/lora/peft_helper.py)."""
    is_four_bit: Callable[[Any], bool] = lambda method: False
    """Are the base's linear layers held in 4 bits while it is trained?"""
    virtual_tokens: Callable[[Any], int] = lambda method: 0
    """Tokens that it puts before every sample, besides those that data.max_tokens counts."""

    @property
    def trains_base(self) -> bool:
        """Do the model's own weights get gradients?"""
        return self.base != "frozen"

    def flops_per_weight(self, method: Any, num_layers: int) -> float:
        """Forward and backward of a token (PaLM, Chowdhery et al. 2022, appendix B): 2 for the forward, 2 for the
        gradient that is passed on, 2 for that of a weight that is trained. (Below the first trained layer nothing is
        passed on: that is not taken off.)"""
        return 4 + 2 * self.trained_share(method, num_layers) if self.trains_base else 4


METHODS: dict[str, MethodTraits] = {
    "full": MethodTraits(
        title="all parameters",
        base="trained",
        exports=("merged",),
        allows=frozenset(("pipeline", "tensor", "sequence", "muon")),
    ),
    "freeze": MethodTraits(
        title="some of the parameters",
        base="partly trained",
        exports=("merged",),
        allows=frozenset(("tensor", "sequence", "muon")),
        trained_share=freeze_share,
        details=freeze_details,
    ),
    "probe": MethodTraits(
        title="a probe of the frozen model",
        base="partly trained",
        exports=("merged",),
        allows=frozenset(("sequence",)),
        trained_share=lambda method, num_layers: 0.0,
    ),
    "lora": MethodTraits(
        title="LoRA",
        base="frozen",
        is_served=lambda method: not method.ranks and not method.alphas,
        exports=("adapter", "merged"),
        allows=frozenset(("pipeline", "tensor", "sequence", "shared_base", "muon")),
        adapted=lora_adapted,
        layer_parameters=lora_parameters,
        kept=lambda method, linear: Kept(reads_input=True, width=rank_of(method, linear) * linear.active),
        learning_rate_ratio=low_rank_ratio,
        drops=lambda method: method.dropout > 0,
        size=lambda method: f"rank {method.rank}",
        details=lora_details,
        computed_start=lambda method: STARTS.get(method.init, ""),
        is_four_bit=lambda method: method.base_precision == "nf4",
    ),
    "dora": MethodTraits(
        title="DoRA",
        base="frozen",
        exports=("adapter", "merged"),
        allows=frozenset(("pipeline", "sequence")),
        adapted=lora_adapted,
        layer_parameters=dora_parameters,
        kept=lambda method, linear: Kept(
            reads_input=True, width=(rank_of(method, linear) + 2 * linear.outputs) * linear.active
        ),
        learning_rate_ratio=low_rank_ratio,
        drops=lambda method: method.dropout > 0,
        size=lambda method: f"rank {method.rank}",
        details=lora_details,
    ),
    "ia3": MethodTraits(
        title="IA3",
        base="frozen",
        exports=("adapter", "merged"),
        allows=frozenset(("pipeline", "sequence")),
        adapted=ia3_adapted,
        layer_parameters=ia3_parameters,
        kept=ia3_kept,
        details=lambda method: f"scales on {', '.join(method.target_modules)}",
    ),
    "adalora": MethodTraits(
        title="AdaLoRA",
        base="frozen",
        exports=("adapter", "merged"),
        allows=frozenset(("sequence",)),
        adapted=lora_adapted,
        layer_parameters=adalora_parameters,
        kept=lambda method, linear: Kept(reads_input=True, width=method.rank * linear.active),
        drops=lambda method: method.dropout > 0,
        size=lambda method: f"rank {method.rank} to {method.target_rank}",
        details=adalora_details,
    ),
    "tuner": MethodTraits(
        title="a further adapter",
        base="frozen",
        exports=("adapter", "merged"),
        allows=frozenset(),
        adapted=tuner_adapted,
        layer_parameters=tuner_parameters,
        kept=lambda method, linear: Kept(reads_input=True, width=linear.outputs * linear.active),
        details=tuner_details,
    ),
    "prompt": MethodTraits(
        title="prompt tuning",
        base="frozen",
        exports=("adapter",),
        allows=frozenset(),
        outer_parameters=prompt_parameters,
        size=lambda method: f"{method.virtual_tokens} virtual tokens",
        details=prompt_details,
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
    "bottleneck": MethodTraits(
        title="bottleneck adapters",
        base="frozen",
        exports=("adapter",),
        library="raysft",
        allows=frozenset(("pipeline", "tensor", "sequence")),
        adapted=bottleneck_adapted,
        layer_parameters=bottleneck_parameters,
        kept=bottleneck_kept,
        size=bottleneck_width,
        details=bottleneck_details,
        computed_start=lambda method: f"those of {method.begin_from}" if method.begin_from else "",
        places=lambda method: {"begin_from": method.begin_from} if method.begin_from else {},
    ),
}
"""{method.kind: its traits}."""


def method_of(recipe: Recipe) -> MethodTraits:
    """The traits of a recipe's method."""
    return METHODS[recipe.method.kind]


def virtual_tokens(recipe: Recipe) -> int:
    """Tokens that the recipe's method puts before every sample; so much longer than its text is what is computed."""
    return method_of(recipe).virtual_tokens(recipe.method)
