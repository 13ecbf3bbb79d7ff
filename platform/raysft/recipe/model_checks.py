"""Rules over `model:` and `method:`, pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from raysft.errors import RecipeError
from raysft.recipe.schema import Recipe
from raysft.recipe.sections.method import (
    AdaloraMethod,
    BottleneckMethod,
    FreezeMethod,
    LoraMethod,
    PrefixMethod,
    PTuningMethod,
    TunerMethod,
)
from raysft.recipe.traits import method_of
from raysft.recipe.tuners import TUNERS


def check_model(recipe: Recipe) -> None:
    """Weights, their config and their tokenizer fit together. Raises RecipeError."""
    model = recipe.model
    if (model.source == "random") != (model.config is not None):
        raise RecipeError(
            "model.source and model.config do not fit together",
            got=f"source = {model.source!r}, config {'set' if model.config is not None else 'not set'}",
            expected="`source: random` with a config, or another source without one",
            fix="add model.config with its model_type, or remove it",
        )
    if model.source == "random" and model.tokenizer is None:
        raise RecipeError(
            "fresh weights need a tokenizer",
            got="model.source = random, model.tokenizer not set",
            expected="model.tokenizer: a directory",
            fix="make one with `raysft tokenizer train`, then set model.tokenizer",
        )


_IDLE: tuple[tuple[type, str, Callable[[Any], bool], str], ...] = (
    (LoraMethod, "init_rows", lambda method: method.init != "eva", "method.init: eva"),
    (PrefixMethod, "hidden_size", lambda method: not method.projection, "method.projection: true"),
    (PTuningMethod, "layers", lambda method: method.encoder != "lstm", "method.encoder: lstm"),
    (
        PTuningMethod,
        "dropout",
        lambda method: method.encoder != "lstm" or method.layers == 1,
        "method.encoder: lstm of two layers or more",
    ),
)
"""(section, field, is it one that does nothing beside the others?, what gives it something to do)."""


def _check_idle(recipe: Recipe) -> None:
    """Raises RecipeError for a number of a method that nothing would read."""
    for section, field, is_idle, wanted in _IDLE:
        if not isinstance(recipe.method, section):
            continue
        value = recipe.method.model_dump()[field]
        if value != recipe.method.__class__.model_fields[field].default and is_idle(recipe.method):
            raise RecipeError(
                f"method.{field} does nothing beside the others",
                got=f"method.{field}: {value}, without {wanted}",
                expected=f"it with {wanted}, or not at all",
                fix=f"remove method.{field}, or set {wanted}",
            )


def check_method(recipe: Recipe) -> None:
    """Numbers of a method that exclude each other. Raises RecipeError."""
    method = recipe.method
    _check_idle(recipe)
    if isinstance(method, PrefixMethod) and recipe.train.gradient_checkpointing:
        raise RecipeError(
            "prefix tuning needs what gradient checkpointing leaves out",
            got="train.gradient_checkpointing: true, with which transformers gives layers no cache; a prefix is one",
            expected="one of them",
            fix="set train.gradient_checkpointing: false, or method.kind: prompt",
        )
    if isinstance(method, BottleneckMethod) and method.reduction_factor and method.bottleneck_size:
        size = method.bottleneck_size
        raise RecipeError(
            "the size of an adapter is said twice",
            got=f"method.reduction_factor: {method.reduction_factor}, method.bottleneck_size: {size}",
            expected="one of them",
            fix="remove one",
        )
    if isinstance(method, FreezeMethod) and method.unfreeze_every_steps:
        _check_unfreezing(recipe, method)
    if isinstance(method, TunerMethod):
        _check_tuner(recipe, method)
    if method_of(recipe).is_four_bit(method):
        _check_four_bit(recipe)
    if isinstance(method, LoraMethod) and method.init == "eva" and recipe.data.mode == "stream":
        raise RecipeError(
            "EVA looks at rows of the training data before the first step",
            got="method.init: eva, data.mode: stream, whose rows are made while it trains",
            expected="prepared data",
            fix="set data.mode: prepared, or method.init: pissa",
        )
    if not isinstance(method, AdaloraMethod):
        return
    if method.target_rank >= method.rank:
        raise RecipeError(
            "AdaLoRA has no ranks to take",
            got=f"method.rank = {method.rank}, method.target_rank = {method.target_rank}",
            expected="a target_rank below rank",
            fix=f"set method.rank: {method.target_rank * 3 // 2 + 1}, or method.kind: lora with that rank",
        )
    if method.warmup_share + method.final_share >= 1:
        raise RecipeError(
            "AdaLoRA has no steps in which it could take ranks",
            got=f"method.warmup_share = {method.warmup_share:g}, method.final_share = {method.final_share:g}",
            expected="shares of the run that leave steps between them",
            fix="set method.warmup_share: 0.1 and method.final_share: 0.3",
        )


def _check_tuner(recipe: Recipe, method: TunerMethod) -> None:
    """The numbers of a further adapter. Raises RecipeError."""
    tuner = TUNERS[method.tuner]
    if unknown := method.options.keys() - tuner.options.keys():
        raise RecipeError(
            f"method.options has what {tuner.title} does not take",
            got=", ".join(sorted(unknown)),
            expected=", ".join(f"{name} (default {value:g})" for name, value in tuner.options.items()),
            fix="mend the name, or remove it",
        )
    if wrong := _useless(method):
        raise RecipeError(
            f"{tuner.title} can do nothing with this number",
            got=", ".join(f"method.options.{name}: {value:g}" for name, value in wrong.items()),
            expected="numbers above 0; whole ones, but for a scale, an alpha and d_initial",
            fix="mend it, or remove it: then its default counts",
        )
    if tuner.is_paired and (ranks := method.options.get("r", 0)) % 2:
        raise RecipeError(
            f"{tuner.title} begins as nothing with pairs of reflections alone",
            got=f"method.options.r: {ranks:g}",
            expected="an even number: else training would begin with a model that is turned at random",
            fix=f"set method.options: {{r: {ranks + 1:g}}}",
        )
    if tuner.is_fp32_only and recipe.train.precision != "fp32":
        raise RecipeError(
            f"{tuner.title} is trained in fp32",
            got=f"train.precision: {recipe.train.precision}",
            expected="fp32: its frozen projections are held in it",
            fix="set train.precision: fp32, or method.kind: lora",
        )


def _useless(method: TunerMethod) -> dict[str, float]:
    """{option: value} of those with which an adapter has no weights, or its weights no effect."""
    counts = {name for name, value in TUNERS[method.tuner].options.items() if isinstance(value, int)} - {"alpha"}
    return {
        name: value
        for name, value in method.options.items()
        if value <= 0 or (name in counts and value != int(value))
    }


def _check_unfreezing(recipe: Recipe, method: FreezeMethod) -> None:
    """What gradual unfreezing goes with. Raises RecipeError."""
    decay, tensor = recipe.optimizer.weight_decay, recipe.parallel.tensor
    obstacles = {
        f"method.layers: {method.layers} (nothing is left to join)": method.num_layers < 2,
        f"optimizer.weight_decay: {decay:g} (it would move layers that are frozen yet)": decay > 0,
        f"parallel.tensor: {tensor} (a rank holds shards of layers)": tensor > 1,
    }
    if found := [words for words, stands in obstacles.items() if stands]:
        raise RecipeError(
            "layers cannot join one by one here",
            got=f"method.unfreeze_every_steps: {method.unfreeze_every_steps}, {', '.join(found)}",
            expected="two layers or more, no weight decay, no tensor parallelism",
            fix="remove method.unfreeze_every_steps, or change that",
        )


def check_schedule(recipe: Recipe, total_steps: int) -> None:
    """Does a run of so many steps hold what its method does in steps? Raises RecipeError."""
    method = recipe.method
    if isinstance(method, FreezeMethod) and method.unfreeze_every_steps:
        last = (method.num_layers - 1) * method.unfreeze_every_steps
        if last >= total_steps:
            raise RecipeError(
                "the last layer would join after the run",
                got=f"method.layers: {method.layers}, one more every {method.unfreeze_every_steps} steps: the last "
                f"from step {last + 1} on, of {total_steps}",
                expected="layers that are all trained",
                fix=f"set method.unfreeze_every_steps: {max(1, total_steps // (method.num_layers + 1))}, or fewer "
                "method.layers",
            )
    if not isinstance(method, AdaloraMethod):
        return
    between = int((1 - method.warmup_share - method.final_share) * total_steps)
    if between < method.every_steps:
        raise RecipeError(
            "AdaLoRA's schedule is longer than the run",
            got=f"ranks taken every {method.every_steps} steps (method.every_steps), {between} of the run's "
            f"{total_steps} steps between method.warmup_share and method.final_share",
            expected="steps for two allocations at least",
            fix=f"set method.every_steps: {max(1, between // 4)}, or train longer"
            if between
            else "train longer, or set method.kind: lora",
        )


def _check_four_bit(recipe: Recipe) -> None:
    """What a base in 4 bits goes with. Raises RecipeError."""
    parallel = recipe.parallel
    obstacles = {
        f"parallel.zero: {parallel.zero} (it would partition packed bytes as if they were weights)": parallel.zero
        == 3,
        f"parallel.tensor: {parallel.tensor}": parallel.tensor > 1,
        f"parallel.pipeline: {parallel.pipeline}": parallel.pipeline > 1,
        f"parallel.sequence: {parallel.sequence}": parallel.sequence > 1,
        f"parallel.offload: {parallel.offload}": parallel.offload != "none",
        "parallel.auto (it may choose one of these)": parallel.auto,
        f"method.init ({method_of(recipe).computed_start(recipe.method)}, of weights in full)": bool(
            method_of(recipe).computed_start(recipe.method)
        ),
    }
    found = [words for words, stands in obstacles.items() if stands]
    if found:
        raise RecipeError(
            "a base in 4 bits is trained with data parallelism and ZeRO 0 to 2",
            got=f"method.base_precision: nf4, {', '.join(found)}",
            expected="parallel.zero: 0, 1 or 2, and no other axis",
            fix="set parallel.zero: 2 (what ZeRO 3 would save, 4 bits save already), or method.base_precision: full",
        )
