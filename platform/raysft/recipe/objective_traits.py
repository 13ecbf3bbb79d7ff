"""What each objective is, as the matrix, data, reports and cards ask. A pure table.

A new kind is one entry here and what acts in objectives/.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from raysft.recipe.columns import (
    MARGIN,
    REFERENCE_LOG_PROB,
    SCORE,
    WANTED,
    Classes,
    Field,
    reference_top_k,
    teacher_top_k,
)
from raysft.recipe.schema import Recipe
from raysft.recipe.sections.head_objectives import RewardObjective
from raysft.recipe.sections.objective import TokenObjective

Answers = Literal["one", "pair", "ranked", "judged", "labelled", "matched"]
"""What a record becomes: one sample; a preferred and a rejected answer, an atom of two samples; all of its answers,
the best first, an atom of as many; an answer with its judgement (of a pair two of them), an atom of it and of another
record's answer to the same prompt; a text with its labels; or a query, a text that matches it and any number that do
not, an atom of plain texts."""
SAMPLE_NAMES: dict[str, str] = {"pair": "pair", "matched": "pair", "ranked": "list"}
"""{what a record becomes: what people call it}, where that is no `sample`."""


@dataclass(frozen=True)
class ObjectiveTraits:
    """An objective, as far as it can be told without torch. Its functions get the section of its kind."""

    title: str
    """In reports and cards."""
    answers: Answers = "one"
    """What a record becomes."""
    ranks_all: Callable[[Any], bool] = lambda objective: False
    """Are all answers of a record compared, where `answers` are pairs? It becomes `ranked` then."""
    written: Callable[[Any], tuple[Field, ...]] = lambda objective: ()
    """Columns of what the records themselves say, written with their tokens, of atoms or segments; empty: none."""
    reference: Callable[[Any], tuple[Field, ...]] = lambda objective: ()
    """Columns that the untrained model, or the teachers, write beside the tokens before training; empty: none."""
    live: Callable[[Any], tuple[Field, ...]] = lambda objective: ()
    """Columns of tokens that the teachers write in training, for each micro-batch; empty: none."""
    teachers: Callable[[Any], tuple[str, ...]] = lambda objective: ()
    """The models that write `reference`, or `live`; empty: the untrained one."""
    judged_by: Callable[[Any], str] = lambda objective: "loss"
    """The measure of rows by which of two models one is better. The loss itself is none where a target that the model
    gives no chance costs as little as one that it is sure of, or where a part of it is to stay high."""
    head: Callable[[Any], int] = lambda objective: 0
    """Numbers that a head of its own gives of a whole sample; 0: it reads the LM head, and has none."""
    classes: Callable[[Any], Classes] = lambda objective: Classes()
    """What the numbers of this head stand for, which records have as labels."""
    beside: Callable[[Any], tuple[Classes, ...]] = lambda objective: ()
    """What else records say of a sample, of a few values, each in a column of their own."""
    auxiliary: Callable[[Any], tuple[int, ...]] = lambda objective: ()
    """Sizes of the layers of a second head on a sample's pooled state, its outputs last: trained, kept by commits, in
    no export; empty: there is none."""
    auxiliary_rate: Callable[[Any], float] = lambda objective: 1.0
    """Learning rate of that head over the model's."""
    embeds: bool = False
    """Reads one vector of each sample, pooled from hidden states: no head at all."""
    measures_first: bool = False
    """Reads what the whole step says: a forward pass over it, without gradients, comes before it is trained on."""
    whole_rows: bool = False
    """Needs more than the loss of the last pipeline stage: pooled states, a second model."""


def _guard(objective: TokenObjective) -> tuple[Field, ...]:
    return reference_top_k(objective.kl_top_k) if objective.kl_weight else ()


def _scores_of_answers(objective: RewardObjective) -> tuple[Field, ...]:
    margin = (MARGIN,) if objective.margin_weight else ()
    return margin if objective.compare == "best_and_worst" else (SCORE,)


def _likelihood(objective: TokenObjective) -> str:
    return "nll"


# Of any section with `domains: DomainsSection | None`; its objective is wrapped by objectives/domains.py.


def _of_domains(objective: Any) -> tuple[Classes, ...]:
    return () if objective.domains is None else (objective.domains.classes,)


def _second_head(objective: Any) -> tuple[int, ...]:
    sizes: tuple[int, ...] = () if objective.domains is None else objective.domains.second_head
    return sizes


def _second_rate(objective: Any) -> float:
    ratio: float = 1.0 if objective.domains is None else objective.domains.learning_rate_ratio
    return ratio


OBJECTIVES: dict[str, ObjectiveTraits] = {
    "sft": ObjectiveTraits(
        title="supervised fine-tuning",
        reference=_guard,
    ),
    "dft": ObjectiveTraits(title="dynamic fine-tuning", reference=_guard, judged_by=_likelihood),
    "eaft": ObjectiveTraits(title="entropy-adaptive fine-tuning", reference=_guard, judged_by=_likelihood),
    "distill": ObjectiveTraits(
        title="distillation",
        reference=lambda objective: () if objective.live else teacher_top_k(objective.teacher_top_k),
        live=lambda objective: teacher_top_k(objective.teacher_top_k) if objective.live else (),
        teachers=lambda objective: objective.teachers,
    ),
    "dpo": ObjectiveTraits(
        title="direct preference optimisation",
        answers="pair",
        reference=lambda objective: (REFERENCE_LOG_PROB,),
    ),
    "cpo": ObjectiveTraits(title="contrastive preference optimisation", answers="pair"),
    "simpo": ObjectiveTraits(title="simple preference optimisation", answers="pair"),
    "orpo": ObjectiveTraits(title="odds ratio preference optimisation", answers="pair"),
    "kto": ObjectiveTraits(
        title="Kahneman-Tversky optimisation",
        measures_first=True,
        answers="judged",
        written=lambda objective: (WANTED,),
        reference=lambda objective: (REFERENCE_LOG_PROB,),
    ),
    "reward": ObjectiveTraits(
        title="reward model",
        answers="pair",
        ranks_all=lambda objective: objective.compare != "best_and_worst",
        written=_scores_of_answers,
        head=lambda objective: 1,
        whole_rows=True,
    ),
    "classify": ObjectiveTraits(
        title="classification",
        answers="labelled",
        head=lambda objective: len(objective.labels),
        classes=lambda objective: objective.classes,
        beside=_of_domains,
        auxiliary=_second_head,
        auxiliary_rate=_second_rate,
        judged_by=lambda objective: "loss" if objective.domains is None else "classify",
        whole_rows=True,
    ),
    "contrastive": ObjectiveTraits(
        title="contrastive learning of text embeddings",
        answers="matched",
        embeds=True,
        measures_first=True,
        whole_rows=True,
    ),
}
"""{objective.kind: its traits}."""


def objective_of(recipe: Recipe) -> ObjectiveTraits:
    """The traits of a recipe's objective."""
    return OBJECTIVES[recipe.objective.kind]


def answers_of(recipe: Recipe) -> Answers:
    """What a record becomes, for the recipe's objective."""
    traits = objective_of(recipe)
    return "ranked" if traits.ranks_all(recipe.objective) else traits.answers


def sample_name(recipe: Recipe) -> str:
    """What people call that: `sample`, `pair`, `list`."""
    return SAMPLE_NAMES.get(answers_of(recipe), "sample")


def head_of(recipe: Recipe) -> int:
    """Numbers that the head of the recipe's objective gives of a whole sample; 0: it has none of its own."""
    return objective_of(recipe).head(recipe.objective)


def embeds(recipe: Recipe) -> bool:
    """Is the recipe's model trained for vectors of texts?"""
    return objective_of(recipe).embeds


def classes_of(recipe: Recipe) -> Classes:
    """What the samples of the recipe's objective may be; without labels: it knows of none."""
    return objective_of(recipe).classes(recipe.objective)


def teachers_of(recipe: Recipe) -> tuple[str, ...]:
    """The models that the recipe's objective learns from; empty: none."""
    return objective_of(recipe).teachers(recipe.objective)


def live_columns(recipe: Recipe) -> tuple[Field, ...]:
    """What the teachers write for each micro-batch of training, for the recipe's objective."""
    return objective_of(recipe).live(recipe.objective)


def categories_of(recipe: Recipe) -> tuple[Classes, ...]:
    """All of a few values that records say of a sample, for the recipe's objective: its labels first."""
    classes = classes_of(recipe)
    return (*((classes,) if classes.labels else ()), *objective_of(recipe).beside(recipe.objective))


def auxiliary_parameters(recipe: Recipe, hidden_size: int) -> int:
    """Weights and biases of the second head of the recipe's objective, on states of this size; 0: it has none."""
    sizes = objective_of(recipe).auxiliary(recipe.objective)
    return sum((before + 1) * size for before, size in zip((hidden_size, *sizes), sizes, strict=False))


def judge_of(recipe: Recipe) -> str:
    """The measure of rows by which of two models of the recipe's objective one is better."""
    return objective_of(recipe).judged_by(recipe.objective)


def written_columns(recipe: Recipe) -> tuple[Field, ...]:
    """What the records say beside their tokens, for the recipe's objective."""
    own = objective_of(recipe).written(recipe.objective)
    return (*own, *(category.field for category in categories_of(recipe)))


def data_columns(recipe: Recipe) -> tuple[Field, ...]:
    """All that batches carry beside tokens and targets, for the recipe's objective."""
    return (*written_columns(recipe), *reference_columns(recipe))


def reference_columns(recipe: Recipe) -> tuple[Field, ...]:
    """What the untrained model or the teachers write beside the tokens, for the recipe's objective."""
    return objective_of(recipe).reference(recipe.objective)
