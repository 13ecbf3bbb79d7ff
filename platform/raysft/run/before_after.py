"""What is measured of a model before and after its training, around it: by tasks, or by the training workers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from raysft.recipe.evaluation_sets import measured_by_workers
from raysft.recipe.objective_traits import classes_of, embeds, head_of
from raysft.run import remote_tasks
from raysft.run.classified import evaluate_classifier
from raysft.run.evaluations import Evaluated, evaluate_once
from raysft.run.retrieved import evaluate_vectors
from raysft.run.worker_losses import losses_after, losses_before, targets_of

Evaluation = dict[str, Any] | None
"""{set: its record}; None without a set."""


def before_and_after(
    of: Evaluated, train: Callable[[], None], phase: Callable[[str], None]
) -> tuple[Evaluation, Evaluation]:
    """train(), and the evaluations of the untrained and of the trained model. phase: told what begins.

    Workers measure while they train (measured_by_workers); what is lost of that, or what they cannot measure, a task
    does. With a head of the objective's own there is nothing to measure before it is trained, and rows are measured
    while it is; of classes a task measures the trained model. Of vectors of texts a task measures both.
    Raises DataError before training where there is nothing to measure on.
    """
    run, recipe = of.run, of.recipe
    if embeds(recipe):
        phase("evaluation")
        untrained = evaluate_vectors(of, "before")
        train()
        phase("evaluation")
        return untrained, evaluate_vectors(of, "after")
    if head_of(recipe):
        train()
        if not classes_of(recipe).labels:
            return None, None
        phase("evaluation")
        return None, evaluate_classifier(of)
    before = partial(evaluate_once, of, "before", remote_tasks.evaluate_initial)
    after = partial(evaluate_once, of, "after", remote_tasks.evaluate_trained, run)
    phase("evaluation")
    if not measured_by_workers(recipe):
        untrained = before()
        train()
        phase("evaluation")
        return untrained, after()
    targets = targets_of(recipe, of.prepared.eval_stores)
    train()
    phase("evaluation")
    untrained = before(measured=partial(losses_before, run, recipe, targets))
    return untrained, after(measured=partial(losses_after, run, recipe, targets))
