"""Everything that `raysft evaluate` and the before/after table say of a model: what was measured of each set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from transformers import PreTrainedModel

from raysft.data.store.parts import TokenStore
from raysft.evaluate.generation import Generator
from raysft.evaluate.heldout import HeldOut, held_out_loss, perplexity_of
from raysft.evaluate.sampling import Sampling
from raysft.metrics import METRICS
from raysft.metrics.base import Answer, Estimate
from raysft.metrics.estimate import estimate
from raysft.model.methods import Forward
from raysft.recipe.evaluation_sets import SetPlan, check_packages

KEPT_SAMPLES = 10


def evaluate_model(
    model: PreTrainedModel,
    generator: Generator,
    how: Sampling,
    sets: Mapping[str, tuple[TokenStore, SetPlan]],
    forward: Forward | None = None,
) -> dict[str, Any]:
    """{set: record}, as JSON. generator: of the answers. model: of the losses; forward: what turns rows into hidden
    states, where it does not do so alone.

    A record has `metrics` {name: Estimate}, `num_prompts`, `answers` (all prompts with `prompt`, `answer` (the
    model's) and `reference`), `samples` (the first of them) and `of_pairs`: the loss is that of the preferred
    answers. Raises DataError, ModelError, StorageError, RecipeError.
    """
    check_packages(plan for _, plan in sets.values())
    return {
        name: _evaluate_set((model, forward), generator, how, store, plan) for name, (store, plan) in sets.items()
    }


def _evaluate_set(
    whole: tuple[PreTrainedModel, Forward | None],
    generator: Generator,
    how: Sampling,
    store: TokenStore,
    plan: SetPlan,
) -> dict[str, Any]:
    losses = None
    if "loss" in plan.metrics:
        losses = held_out_loss(whole[0], store, max_rows=plan.max_rows, forward=whole[1])
    prompts = store.prompts()[: plan.prompts]
    texts = generator.generate([one["prompt"] for one in prompts], how) if prompts else []
    answers = [Answer(one["prompt"], text, one["answer"]) for one, text in zip(prompts, texts, strict=True)]
    return record_of(losses, answers, plan)


def record_of(losses: HeldOut | None, answers: Sequence[Answer], plan: SetPlan) -> dict[str, Any]:
    """The record of a set. losses: None where none is asked for. Pure."""
    metrics: dict[str, Estimate] = {}
    if losses is not None:
        loss = Estimate(losses.loss, losses.target_tokens, losses.low, losses.high)
        low, high = (None if end is None else perplexity_of(end) for end in (loss.low, loss.high))
        metrics |= {"loss": loss, "perplexity": Estimate(perplexity_of(loss.value), loss.count, low, high)}
    if answers:
        metrics |= {name: estimate(METRICS[name], answers) for name in plan.metrics if name in METRICS}
    told = [{"prompt": one.prompt, "answer": one.text, "reference": one.reference} for one in answers]
    return {
        "metrics": {name: asdict(found) for name, found in metrics.items()},
        "num_prompts": len(answers),
        "answers": told,
        "samples": told[:KEPT_SAMPLES],
        "of_pairs": losses is not None and losses.of_pairs,
    }
