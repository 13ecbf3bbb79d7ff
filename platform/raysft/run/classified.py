"""The evaluation of a run's classifier, by a task, kept in the run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from raysft import sealed, storage
from raysft.observe.labels import label_lines
from raysft.recipe.measures import HELD_OUT
from raysft.run import remote_tasks
from raysft.run.evaluations import Evaluated, evaluation_line, keep_evaluation, kept_evaluation
from raysft.runtime.join import run_task

logger = logging.getLogger(__name__)


def write_labels(run: str, labels: Mapping[str, Any], fingerprints: Mapping[str, str]) -> None:
    """Keep what each text was labelled: {set: metrics/labelled.py, Labelled}."""
    sealed.write(_labels_location(run), {"labels": dict(labels), "mathematics": fingerprints["mathematics"]})


def read_labels(run: str, fingerprints: Mapping[str, str]) -> dict[str, Any]:
    """The same by set; none where there are none of this run, or they are damaged, which is told."""
    record = sealed.read(_labels_location(run), {"labels": dict, "mathematics": str})
    return {} if record is None or record["mathematics"] != fingerprints["mathematics"] else dict(record["labels"])


def _labels_location(run: str) -> str:
    return storage.join(run, "evaluation", "after-labels.json")


def evaluate_classifier(of: Evaluated) -> dict[str, Any] | None:
    """{set: record} (evaluate/classified.py) of the trained classifier, made once; None without a set."""
    stores = of.prepared.eval_stores
    if not stores:
        return None
    found = kept_evaluation(of, "after")
    if found is None:
        fields = of.recipe.model_dump(mode="json")
        found = run_task(of.recipe.cluster, remote_tasks.evaluate_classifier, fields, dict(stores), of.run)
        write_labels(of.run, {name: one.pop("labelled") for name, one in found.items()}, of.fingerprints)
        keep_evaluation(of, "after", found)
    logger.info("%-12s %s", "after", evaluation_line(found))
    for line in label_lines(found[HELD_OUT]["classes"]) if HELD_OUT in found else ():
        logger.info("             %s", line)
    return found
