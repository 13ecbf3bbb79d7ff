"""Further adapters of peft that merge: their numbers, and how many weights one has. A pure table.

Those that passed: trained under ZeRO 0 and 3 as by peft alone, exported, loaded again by plain peft, merged to 1e-4
(tests/parity/test_methods.py, tests/unit/model/methods/test_tuner.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from raysft.recipe.adapter_sizes import is_target
from raysft.recipe.facts import ModelShape
from raysft.recipe.sections.method import TunerMethod

Options = Mapping[str, int | float | bool]


@dataclass(frozen=True)
class Tuner:
    """One of them."""

    title: str
    paper: str
    options: Options
    """{name in peft's config: value that is meant where a recipe does not say it}."""
    weights: Callable[[Options, int, int], int]
    """(options, inputs, outputs) -> weights of the adapter of one linear layer."""
    peft_type: str
    fixed: Options
    """What peft is told besides."""
    is_fp32_only: bool = False
    """Do its projections stay in fp32, with which peft multiplies bf16 and fails?"""
    most_ranks: Callable[[int, int], int] | None = None
    """(inputs, outputs) -> largest `r` of which a layer has a use; None: any, or it has none."""
    is_paired: bool = False
    """Is `r` even? Of an odd number of reflections one has no twin that undoes it: the model would be another."""
    seed_option: str | None = None
    """What its config calls the seed of its random numbers that are not trained."""


def _oft_weights(options: Options, inputs: int, outputs: int) -> int:
    size = int(options["oft_block_size"])
    return inputs // size * (size * (size - 1) // 2)


TUNERS: dict[str, Tuner] = {
    "fourierft": Tuner(
        "FourierFT",
        "arXiv:2405.03003",
        {"n_frequency": 1000, "scaling": 150.0},
        lambda options, inputs, outputs: int(options["n_frequency"]),
        "FOURIERFT",
        {"init_weights": True},  # begins as nothing
        seed_option="random_loc_seed",
    ),
    "hra": Tuner(
        "HRA",
        "arXiv:2405.17484",
        {"r": 8},
        lambda options, inputs, outputs: int(options["r"]) * inputs,
        "HRA",
        {},
        most_ranks=lambda inputs, outputs: inputs,  # reflections: more give no other rotation
        is_paired=True,
    ),
    "loha": Tuner(
        "LoHa",
        "arXiv:2108.06098",
        {"r": 8, "alpha": 8},
        lambda options, inputs, outputs: 2 * int(options["r"]) * (inputs + outputs),
        "LOHA",
        {},
        most_ranks=min,
    ),
    "miss": Tuner(
        "MiSS",
        "arXiv:2409.15371",
        {"r": 64},
        lambda options, inputs, outputs: int(options["r"]) * outputs,
        "MISS",
        {},
        most_ranks=lambda inputs, outputs: inputs,
    ),
    "oft": Tuner(
        "OFT",
        "arXiv:2306.07280",
        {"oft_block_size": 32},
        _oft_weights,
        "OFT",
        {"r": 0},
    ),
    "vera": Tuner(
        "VeRA",
        "arXiv:2310.11454",
        {"r": 256, "d_initial": 0.1},
        lambda options, inputs, outputs: int(options["r"]) + outputs,
        "VERA",
        {"save_projection": True},
        is_fp32_only=True,
        most_ranks=lambda inputs, outputs: inputs * outputs,  # of rank one each: as many as span all matrices
        seed_option="projection_prng_key",
    ),
}
"""{method.tuner: what it is}."""


def tuner_options(method: TunerMethod) -> Options:
    """The recipe's, and what is meant where it does not say it."""
    return {**TUNERS[method.tuner].options, **method.options}


def tuner_adapted(method: TunerMethod, shape: ModelShape) -> frozenset[str]:
    """Linear layers with an adapter; experts have none."""
    everywhere = method.target_modules == ("all-linear",)
    return frozenset(
        one.name for one in shape.linears if one.copies == 1 and (everywhere or is_target(one, method.target_modules))
    )


def tuner_parameters(method: TunerMethod, shape: ModelShape, tensor: int) -> int:
    """Adapter weights of a decoder layer, on its one rank."""
    adapted, options, tuner = tuner_adapted(method, shape), tuner_options(method), TUNERS[method.tuner]
    return sum(tuner.weights(options, one.inputs, one.outputs) for one in shape.linears if one.name in adapted)


def tuner_details(method: TunerMethod) -> str:
    """`LoHa, r 8, alpha 8, on q_proj`."""
    numbers = [f"{name} {value:g}" for name, value in tuner_options(method).items()]
    return f"{TUNERS[method.tuner].title}, {', '.join(numbers)}, on {', '.join(method.target_modules)}"
