"""Dynamic fine-tuning (Wu et al. 2025, arXiv:2508.05629): each target's cross-entropy times its probability.

The probability is a weight, without a gradient of its own: a rare answer no longer pulls hardest. Per target token of
the step, whatever the weights add up to. With the guard (guard.py) it is ASFT (arXiv:2509.23753).
"""

from __future__ import annotations

from raysft.objectives.base import NLL, Term
from raysft.objectives.batch import DeviceBatch
from raysft.objectives.guard import guarded
from raysft.objectives.objective import Loss, Objective
from raysft.objectives.view import View
from raysft.recipe.sections.objective import DftObjective, ObjectiveSection


def make(section: ObjectiveSection) -> Objective:
    """The objective of a recipe's section."""
    assert isinstance(section, DftObjective)
    return guarded(Objective((Term("dft", "target_token"),), _loss, metrics=(NLL,)), section)


def _loss(view: View, batch: DeviceBatch) -> Loss:
    trained = batch.known.trained
    log_probs, weights = view.log_probs(), trained.of(batch.weights)  # [N]
    costs = -log_probs * log_probs.detach().exp() * weights
    return Loss({"dft": view.total_at(costs, trained)}, {NLL: view.mean_at(-log_probs, weights, trained)})
