"""The evaluation of a run's classifier, by a task, kept in the run."""

from __future__ import annotations

import logging
from typing import Any

from raysft.observe.labels import label_lines
from raysft.recipe.measures import HELD_OUT
from raysft.run import remote_tasks
from raysft.run.evaluations import Evaluated, evaluation_line, keep_evaluation, kept_evaluation
from raysft.runtime.join import run_task

logger = logging.getLogger(__name__)


def evaluate_classifier(of: Evaluated) -> dict[str, Any] | None:
    """{set: record} (evaluate/classified.py) of the trained classifier, made once; None without a set."""
    stores = of.prepared.eval_stores
    if not stores:
        return None
    found = kept_evaluation(of, "after")
    if found is None:
        fields = of.recipe.model_dump(mode="json")
        found = run_task(of.recipe.cluster, remote_tasks.evaluate_classifier, fields, dict(stores), of.run)
        keep_evaluation(of, "after", found)
    logger.info("%-12s %s", "after", evaluation_line(found))
    for line in label_lines(found[HELD_OUT]["classes"]) if HELD_OUT in found else ():
        logger.info("             %s", line)
    return found
