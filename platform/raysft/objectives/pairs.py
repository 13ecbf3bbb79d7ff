"""What objectives on pairs of answers have in common. A pair is an atom of two samples, the preferred one first.

Shapes: S samples, A pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from raysft.objectives.base import Term
from raysft.objectives.batch import DeviceBatch
from raysft.objectives.objective import Loss, Objective
from raysft.objectives.view import View
from raysft.recipe.columns import Field
from raysft.recipe.sections.objective import MarginObjective, PreferenceObjective

PREFERRED_NLL = "preferred_nll"
"""The term that is minus the log-likelihood of the preferred answers' tokens, in nats a token."""


@dataclass(frozen=True)
class Answers:
    """The answers of a micro-batch."""

    log_probs: Tensor
    """[S], log p of each under the model: the sum over its trained tokens."""
    num_tokens: Tensor
    """[S], its trained tokens, of which each has at least one."""
    preferred: Tensor
    """[S] bool."""

    @property
    def mean_log_probs(self) -> Tensor:
        """[S], log p a token."""
        return self.log_probs / self.num_tokens


def pair_objective(
    name: str,
    section: PreferenceObjective,
    weight: float,
    compare: Callable[[View, DeviceBatch, Answers], tuple[Tensor, Tensor]],
    columns: tuple[Field, ...] = (),
) -> Objective:
    """The objective whose term `name` is a mean over pairs, and with `sft_weight` fine-tuning on preferred answers.

    compare: (what each pair costs [A], its margin [A]); a margin over 0 says that the model rates the preferred
    answer higher.
    """

    def loss(view: View, batch: DeviceBatch) -> Loss:
        answers = _answers(view, batch)
        costs, margins = compare(view, batch, answers)
        sums = {name: view.total(costs, "atom")}
        if section.sft_weight:
            nll = torch.where(answers.preferred, -answers.log_probs, 0.0)
            sums[PREFERRED_NLL] = view.total(nll, "segment")
        return Loss(sums, {"accuracy": view.mean(margins > 0, "atom"), "margin": view.mean(margins, "atom")})

    guard = (Term(PREFERRED_NLL, "preferred_token", section.sft_weight),) if section.sft_weight else ()
    return Objective((Term(name, "atom", weight), *guard), loss, columns, metrics=("accuracy", "margin"))


def _answers(view: View, batch: DeviceBatch) -> Answers:
    trained = batch.known.trained
    log_probs = view.log_probs()
    return Answers(
        view.per_segment(log_probs, trained),
        view.per_segment(torch.ones_like(log_probs.detach()), trained),
        batch.is_first_of_atom,
    )


def gap(view: View, answers: Answers, scores: Tensor) -> Tensor:
    """[A]: score of the preferred answer - score of the rejected one. scores: [S]."""
    return view.per_atom(torch.where(answers.preferred, scores, -scores))


def margin_cost(section: MarginObjective, beta: float, gaps: Tensor) -> Tensor:
    """[A], what pairs cost whose scores are so far apart; the scores of `ipo` are a token's."""
    margins, flipped = beta * gaps, section.label_smoothing
    match section.loss:
        case "sigmoid":
            return -(1 - flipped) * logsigmoid(margins) - flipped * logsigmoid(-margins)
        case "robust":
            return (-(1 - flipped) * logsigmoid(margins) + flipped * logsigmoid(-margins)) / (1 - 2 * flipped)
        case "hinge":
            return relu(1 - margins)
        case "ipo":
            return (gaps - 1 / (2 * beta)) ** 2
