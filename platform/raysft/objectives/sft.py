"""Supervised fine-tuning: minus the log-likelihood of the target tokens, per target token of the step.

On request with smoothed labels (Szegedy et al. 2015, arXiv:1512.00567) and with a guard against forgetting
(guard.py).
"""

from __future__ import annotations

from raysft.objectives.base import NLL, Term
from raysft.objectives.batch import DeviceBatch
from raysft.objectives.guard import guarded
from raysft.objectives.objective import Loss, Objective
from raysft.objectives.view import View
from raysft.recipe.sections.objective import ObjectiveSection, SftObjective

SMOOTHING = "smoothing"
"""The term that is minus the mean of all tokens' log-probabilities where a target is predicted, in nats."""


def make(section: ObjectiveSection) -> Objective:
    """The objective of a recipe's section."""
    assert isinstance(section, SftObjective)
    share = section.label_smoothing
    terms = (Term(NLL, "target_token", 1 - share), Term(SMOOTHING, "target_token", share))
    plain = Objective(terms, _smooth) if share else Objective(terms[:1], _nll)
    return guarded(plain, section)


def _nll(view: View, batch: DeviceBatch) -> Loss:
    return Loss({NLL: view.weighted_nll()})


def _smooth(view: View, batch: DeviceBatch) -> Loss:
    trained = batch.known.trained
    log_probs, means = (found * trained.of(batch.weights) for found in view.smooth_log_probs())  # [N]
    return Loss({NLL: view.total_at(-log_probs, trained), SMOOTHING: view.total_at(-means, trained)})
