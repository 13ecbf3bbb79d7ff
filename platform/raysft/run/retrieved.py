"""The evaluations of a run's vectors of texts, by a task, kept in the run."""

from __future__ import annotations

import logging
from typing import Any, Literal

from raysft.run import remote_tasks
from raysft.run.evaluations import Evaluated, evaluation_line, keep_evaluation, kept_evaluation
from raysft.runtime.join import run_task

logger = logging.getLogger(__name__)


def evaluate_vectors(of: Evaluated, when: Literal["before", "after"]) -> dict[str, Any] | None:
    """{set: record} (evaluate/retrieval.py) of the model before or after its training, made once; None without a
    set."""
    stores = of.prepared.eval_stores
    if not stores:
        return None
    found = kept_evaluation(of, when)
    if found is None:
        fields, run = of.recipe.model_dump(mode="json"), of.run if when == "after" else None
        found = run_task(of.recipe.cluster, remote_tasks.evaluate_vectors, fields, dict(stores), run)
        keep_evaluation(of, when, found)
    logger.info("%-12s %s", when, evaluation_line(found))
    return found
