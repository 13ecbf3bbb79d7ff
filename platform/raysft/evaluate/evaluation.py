"""Everything that `raysft evaluate` and the before/after table say of a model: what was measured of each set.

By one task or by several, each with its share of rows and prompts (evaluate_share), put together by evaluation_of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from transformers import PreTrainedModel

from raysft.data.store.parts import TokenStore
from raysft.evaluate.generation import Generator
from raysft.evaluate.heldout import HeldOut, RowLoss, loss_of_rows, perplexity_of, row_losses
from raysft.evaluate.sampling import Sampling
from raysft.evaluate.scorers import NO_SCORERS, Scorer, scored
from raysft.metrics import METRICS
from raysft.metrics.base import Answer, Estimate
from raysft.metrics.estimate import estimate
from raysft.model.methods import Forward
from raysft.recipe.evaluation_sets import SetPlan, check_packages

KEPT_SAMPLES = 10


@dataclass(frozen=True)
class Share:
    """A part of what is measured, for one of several tasks: neighbouring rows and prompts of each set."""

    part: int = 0
    parts: int = 1

    def of(self, count: int) -> range:
        """Which of so many."""
        return range(count * self.part // self.parts, count * (self.part + 1) // self.parts)


WHOLE = Share()


def evaluate_model(
    model: PreTrainedModel,
    generator: Generator,
    how: Sampling,
    sets: Mapping[str, tuple[TokenStore, SetPlan]],
    forward: Forward | None = None,
    *,
    scorers: Mapping[str, Scorer] = NO_SCORERS,
) -> dict[str, Any]:
    """{set: record}, as JSON (evaluation_of). generator: of the answers. model: of the losses; forward: what turns
    rows into hidden states, where it does not do so alone. scorers: by the metrics that need one.

    Raises DataError, ModelError, StorageError, RecipeError.
    """
    plans = {name: plan for name, (_, plan) in sets.items()}
    check_packages(plans.values())
    return evaluation_of([evaluate_share(model, generator, how, sets, forward, scorers=scorers)], plans)


def evaluate_share(
    model: PreTrainedModel,
    generator: Generator,
    how: Sampling,
    sets: Mapping[str, tuple[TokenStore, SetPlan]],
    forward: Forward | None = None,
    share: Share = WHOLE,
    *,
    scorers: Mapping[str, Scorer] = NO_SCORERS,
) -> dict[str, Any]:
    """{set: {`rows`: a RowLoss each, `answers`: an Answer each}} of a share, as JSON. scorers: by the metrics that
    need one.

    Arguments and errors as evaluate_model's.
    """
    found = {}
    for name, (store, plan) in sets.items():
        rows = share.of(min(plan.max_rows, store.num_rows)) if "loss" in plan.metrics else ()
        prompts = store.prompts()[: plan.prompts] if plan.prompts else []
        numbers = share.of(len(prompts))
        asked = [prompts[number] for number in numbers]
        texts = generator.generate([one["prompt"] for one in asked], how, first=numbers.start) if asked else []
        answers = [Answer(one["prompt"], text, one["answer"]) for one, text in zip(asked, texts, strict=True)]
        wanted = {metric: scorer for metric, scorer in scorers.items() if metric in plan.metrics}
        told = scored(answers, wanted, [one["answer"] for one in prompts])
        found[name] = {
            "rows": row_losses(model, store, rows, forward) if rows else [],
            "answers": [answer.as_json() for answer in told],
        }
    return found


def evaluation_of(shares: Sequence[Mapping[str, Any]], plans: Mapping[str, SetPlan]) -> dict[str, Any]:
    """{set: record}, as JSON, of what evaluate_share() found of all shares, in their order. Pure.

    A record has `metrics` {name: Estimate}, `num_prompts`, `answers` (all of them, as Answer.as_json()), `samples`
    (the first of them: `prompt`, `answer` (the model's) and `reference`) and `of_pairs`: the loss is that of the
    preferred answers. Raises DataError where a loss is asked for and no row has a target.
    """
    records = {}
    for name, plan in plans.items():
        rows = [RowLoss(*row) for share in shares for row in share[name]["rows"]]
        answers = [Answer.of(fields) for share in shares for fields in share[name]["answers"]]
        records[name] = record_of(loss_of_rows(rows) if "loss" in plan.metrics else None, answers, plan)
    return records


def record_of(losses: HeldOut | None, answers: Sequence[Answer], plan: SetPlan) -> dict[str, Any]:
    """The record of a set. losses: None where none is asked for. Pure."""
    metrics: dict[str, Estimate] = {}
    if losses is not None:
        loss = Estimate(losses.loss, losses.target_tokens, losses.low, losses.high)
        low, high = (None if end is None else perplexity_of(end) for end in (loss.low, loss.high))
        metrics |= {"loss": loss, "perplexity": Estimate(perplexity_of(loss.value), loss.count, low, high)}
    if answers:
        metrics |= {name: estimate(METRICS[name], answers) for name in plan.metrics if name in METRICS}
    first = answers[:KEPT_SAMPLES]
    return {
        "metrics": {name: asdict(found) for name, found in metrics.items()},
        "num_prompts": len(answers),
        "answers": [one.as_json() for one in answers],
        "samples": [{"prompt": one.prompt, "answer": one.text, "reference": one.reference} for one in first],
        "of_pairs": losses is not None and losses.of_pairs,
    }
