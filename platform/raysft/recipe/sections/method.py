"""`method:`: which parameters are trained. One section for each kind, told apart by `kind`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from raysft.recipe.cleaning import OneOrMany, Section


class FullMethod(Section):
    """All parameters are trained."""

    kind: Literal["full"] = Field("full", description="The kind that is meant where none is named.")


_RANGE = re.compile(r"\s*([0-9]{1,4})\s*(?:-\s*([0-9]{1,4})\s*)?")
"""A layer, or layers from one to another: no model has ten thousand."""


def _numbers(layers: str) -> list[int]:
    """`0-2, 5` -> [0, 1, 2, 5]. Raises ValueError."""
    found: list[int] = []
    for part in layers.split(","):
        ends = _RANGE.fullmatch(part)
        numbers = range(int(ends[1]), int(ends[2] or ends[1]) + 1) if ends else range(0)
        if not numbers or not set(found).isdisjoint(numbers):
            raise ValueError(f"{part.strip()!r} is no layer or range of layers that is not there yet")
        found += numbers
    return found


def _in_one_form(layers: str) -> str:
    _numbers(layers)
    return "".join(layers.split())


class FreezeMethod(Section):
    """Some decoder layers, and parameters by name, are trained; the rest of the model stays as it is."""

    kind: Literal["freeze"] = Field(description="Names this kind.")
    layers: int | Annotated[str, AfterValidator(_in_one_form)] = Field(
        2,
        description="Decoder layers that are trained: so many last ones; below 0, first ones; or, as a text, which: "
        "`8-15`, `0-3, 12-15`, counted from 0 at the input, both ends included.",
    )
    parameters: OneOrMany = Field(
        (), description="Names of further parameters that are trained, `*` for anything: `lm_head.*`, `*norm*`."
    )
    unfreeze_every_steps: int | None = Field(
        None,
        ge=1,
        description="Gradual unfreezing (arXiv:1801.06146): of `layers` the one nearest the output is trained from "
        "the first step, the one below it from so many steps on, and so on. Default: all from the first step.",
    )

    @property
    def num_layers(self) -> int:
        """How many layers are trained."""
        return abs(self.layers) if isinstance(self.layers, int) else len(_numbers(self.layers))

    def of(self, num_layers: int) -> list[int] | None:
        """Which layers of a model with so many are trained, by numbers from 0; None: it has not all of them."""
        numbers = range(self.num_layers) if isinstance(self.layers, int) else _numbers(self.layers)
        if isinstance(self.layers, int) and self.layers > 0:
            numbers = range(num_layers - self.num_layers, num_layers)
        is_there = all(0 <= number < num_layers for number in numbers)
        return sorted(numbers) if is_there else None


class ProbeMethod(Section):
    """Nothing of the model is trained, but the head of an objective that has one of its own (`reward`)."""

    kind: Literal["probe"] = Field(description="Names this kind.")


class LowRankMethod(Section):
    """What LoRA and DoRA have in common."""

    rank: int = Field(16, ge=1, description="LoRA rank r: the width between the two matrices of an adapter.")
    alpha: float = Field(32.0, gt=0, description="LoRA alpha; the adapter's output is scaled by alpha / rank.")
    ranks: dict[str, Annotated[int, Field(ge=1)]] = Field(
        {}, description="Another rank for some layers, by name as in target_modules: `{down_proj: 32}`."
    )
    alphas: dict[str, Annotated[float, Field(gt=0)]] = Field(
        {}, description="Another alpha for some layers, likewise; a layer without one has `alpha`, whatever its rank."
    )
    rslora: bool = Field(
        False, description="Scale by alpha / sqrt(rank) instead, so that high ranks learn as fast (arXiv:2312.03732)."
    )
    b_learning_rate_ratio: float = Field(
        1.0,
        gt=0,
        description="Learning rate of the matrices B, which begin at zero, over the others': 16 in LoRA+ "
        "(arXiv:2402.12354).",
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Share of an adapter's inputs that is dropped at random.")
    target_modules: OneOrMany = Field(
        ("all-linear",), description="Names of the linear layers that get an adapter, or `all-linear`."
    )


class LoraMethod(LowRankMethod):
    """Low-rank adapters (arXiv:2106.09685) on a frozen model."""

    kind: Literal["lora"] = Field(description="Names this kind.")
    init: Literal["random", "pissa", "olora", "eva"] = Field(
        "random",
        description="What adapters begin with. `random`: A random, B zero. `pissa`: the largest singular values of "
        "each weight (arXiv:2404.02948); `olora`: its QR decomposition (arXiv:2406.01775); both train that part of "
        "the weight on the rest of it. `eva`: A is the directions in which the layer's inputs vary most over rows of "
        "the training data, B zero (arXiv:2410.07170).",
    )
    base_precision: Literal["full", "nf4"] = Field(
        "full",
        description="How the frozen base is held while adapters are trained: in train.precision; or its linear "
        "layers in 4 bits, NormalFloat with double quantisation (QLoRA, arXiv:2305.14314): an eighth of fp32. "
        "nf4 needs the extra `qlora`.",
    )
    init_rows: int = Field(256, ge=1, description="Rows of the training data that `init: eva` looks at.")


class DoraMethod(LowRankMethod):
    """Low-rank adapters of the direction of weights, and a magnitude for each output (arXiv:2402.09353)."""

    kind: Literal["dora"] = Field(description="Names this kind.")


class Ia3Method(Section):
    """Learned scales of keys, values and the MLP's inner activations (arXiv:2205.05638) on a frozen model."""

    kind: Literal["ia3"] = Field(description="Names this kind.")
    target_modules: OneOrMany = Field(
        ("k_proj", "v_proj", "down_proj"), description="Names of the linear layers that get scales."
    )
    feedforward_modules: OneOrMany = Field(
        ("down_proj",), description="Those of them whose inputs are scaled; of the others the outputs are."
    )


class AdaloraMethod(Section):
    """Low-rank adapters that give up ranks where they matter least (AdaLoRA, arXiv:2303.10512), frozen model."""

    kind: Literal["adalora"] = Field(description="Names this kind.")
    rank: int = Field(12, ge=1, description="Ranks of each adapter at the start.")
    target_rank: int = Field(8, ge=1, description="Ranks of an adapter at the end, in the mean over all of them.")
    alpha: float = Field(32.0, gt=0, description="The adapter's output is scaled by alpha / rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Share of an adapter's inputs that is dropped at random.")
    target_modules: OneOrMany = Field(
        ("all-linear",), description="Names of the linear layers that get an adapter, or `all-linear`."
    )
    warmup_share: float = Field(0.1, ge=0, lt=1, description="Share of the run's steps that keeps all ranks.")
    final_share: float = Field(0.3, ge=0, lt=1, description="Share of the run's steps after the last rank was taken.")
    every_steps: int = Field(10, ge=1, description="Steps between two allocations of ranks.")
    orthogonality_weight: float = Field(
        0.5, ge=0, description="Weight of the penalty that keeps singular vectors apart."
    )
    importance_beta: float = Field(0.85, gt=0, lt=1, description="Smoothing of the sensitivity of a weight.")
    uncertainty_beta: float = Field(0.85, gt=0, lt=1, description="Smoothing of that sensitivity's uncertainty.")


class VirtualTokensMethod(Section):
    """What methods that put trained virtual tokens before every sample have in common. The model stays frozen."""

    virtual_tokens: int = Field(
        20,
        ge=1,
        description="Virtual tokens before every sample. They take positions and memory besides `data.max_tokens`.",
    )


class PromptMethod(VirtualTokensMethod):
    """Prompt tuning (arXiv:2104.08691): the embeddings of virtual tokens are trained, and nothing else."""

    kind: Literal["prompt"] = Field(description="Names this kind.")
    init: Literal["vocabulary", "random"] = Field(
        "vocabulary",
        description="Embeddings that training begins with: those of tokens drawn from the vocabulary, or numbers "
        "drawn from a normal distribution.",
    )


class PTuningMethod(VirtualTokensMethod):
    """P-tuning (arXiv:2103.10385): a small network makes the embeddings of virtual tokens, and it is trained."""

    kind: Literal["p_tuning"] = Field(description="Names this kind.")
    encoder: Literal["mlp", "lstm"] = Field(
        "mlp", description="The network: three linear layers, or an LSTM in both directions and two linear layers."
    )
    hidden_size: int | None = Field(None, ge=1, description="Width of the network. Default: the model's hidden size.")
    layers: int = Field(2, ge=1, description="Layers of the LSTM.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Share that is dropped at random between the LSTM's layers.")


class PrefixMethod(VirtualTokensMethod):
    """Prefix tuning (arXiv:2101.00190), P-tuning v2: keys and values of virtual tokens are trained in every layer."""

    kind: Literal["prefix"] = Field(description="Names this kind.")
    projection: bool = Field(
        False, description="Train embeddings and a small network that makes keys and values of them, not these."
    )
    hidden_size: int | None = Field(
        None, ge=1, description="Width of that network. Default: the size of a layer's keys."
    )


class TunerMethod(Section):
    """A further adapter of peft, on a frozen model, merged afterwards."""

    kind: Literal["tuner"] = Field(description="Names this kind.")
    tuner: Literal["fourierft", "hra", "loha", "miss", "oft", "vera"] = Field(
        "loha",
        description="FourierFT (arXiv:2405.03003), HRA (2405.17484), LoHa (2108.06098), MiSS (2409.15371), OFT "
        "(2306.07280) or VeRA (2310.11454).",
    )
    options: dict[str, int | float] = Field(
        {}, description="Its numbers by the names that peft has for them, such as `{r: 8}`; docs/guide/methods.md."
    )
    target_modules: OneOrMany = Field(
        ("all-linear",), description="Names of the linear layers that get an adapter, or `all-linear`."
    )


class BottleneckMethod(Section):
    """Bottleneck adapters (arXiv:1902.00751): small networks behind the sublayers of a frozen model. Never merged."""

    kind: Literal["bottleneck"] = Field(description="Names this kind.")
    placement: Literal["houlsby", "pfeiffer"] = Field(
        "pfeiffer",
        description="Where an adapter stands in each layer, before what it gives is added to the residual: `houlsby` "
        "behind attention and behind the MLP (arXiv:1902.00751), `pfeiffer` behind the MLP alone (arXiv:2005.00247).",
    )
    reduction_factor: int | None = Field(
        None, ge=1, description="The model's hidden size over that of an adapter. Default: 16."
    )
    bottleneck_size: int | None = Field(
        None, ge=1, description="The hidden size of an adapter, in place of `reduction_factor`."
    )
    activation: Literal["relu", "gelu", "silu"] = Field(
        "relu", description="Between the two linear layers of an adapter."
    )
    begin_from: str | None = Field(
        None,
        description="An exported bottleneck adapter to go on with, of the same numbers: `run://NAME`, an export or "
        "the `adapter` in it. Default: a fresh one, with which the model is the base.",
    )


MethodSection = (
    FullMethod
    | FreezeMethod
    | ProbeMethod
    | LoraMethod
    | DoraMethod
    | Ia3Method
    | AdaloraMethod
    | PromptMethod
    | PTuningMethod
    | PrefixMethod
    | TunerMethod
    | BottleneckMethod
)
"""A section of any kind."""


def _with_kind(section: object) -> object:
    """`method: {}` is `kind: full`."""
    return {"kind": "full", **section} if isinstance(section, Mapping) else section


Method = Annotated[MethodSection, Field(discriminator="kind"), BeforeValidator(_with_kind)]
