"""MLflow: the server of MLFLOW_TRACKING_URI, or a database `mlflow.db` in the storage of all runs.

Its store of plain files is in maintenance (3.17 refuses it), so a local one is SQLite.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

from raysft.observe.trackers.base import Place, Point

URI, EXPERIMENT, TAG = "MLFLOW_TRACKING_URI", "raysft", "raysft.run"
MOST_METRICS, MOST_FIELDS, LONGEST_FIELD = 1000, 100, 6000
"""In one request; characters of a field's value."""


class MLflow:
    """See Tracker. A run that goes on goes on in the same run of MLflow, known by a tag."""

    def __init__(self, place: Place) -> None:
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells of each table that it makes
        uri = os.environ.get(URI) or f"sqlite:///{os.path.join(place.storage, 'mlflow.db')}"
        self._client = MlflowClient(tracking_uri=uri)
        found = self._client.get_experiment_by_name(EXPERIMENT)
        self._experiment = found.experiment_id if found else self._client.create_experiment(EXPERIMENT)
        runs = self._client.search_runs([self._experiment], f"tags.`{TAG}` = '{place.identity}'", max_results=1)
        if runs:
            self._run = runs[0].info.run_id
            self._client.update_run(self._run, status="RUNNING")
            return
        made = self._client.create_run(self._experiment, run_name=place.name, tags={TAG: place.identity})
        self._run = made.info.run_id
        fields = [Param(name, str(value)[:LONGEST_FIELD]) for name, value in place.fields.items()]
        for start in range(0, len(fields), MOST_FIELDS):
            self._client.log_batch(self._run, params=fields[start : start + MOST_FIELDS])

    def log(self, points: Sequence[Point]) -> None:
        """See Tracker."""
        from mlflow.entities import Metric

        metrics = [
            Metric(name, value, int(point.at * 1000), point.step)
            for point in points
            for name, value in point.values.items()
        ]
        for start in range(0, len(metrics), MOST_METRICS):
            self._client.log_batch(self._run, metrics=metrics[start : start + MOST_METRICS])

    def rewind(self, step: int) -> None:
        """See Tracker. What comes again has the same values: it stays."""

    def close(self, status: str) -> None:
        """See Tracker."""
        told = {"finished": "FINISHED", "stopped": "KILLED"}.get(status, "FAILED")
        self._client.set_terminated(self._run, told)
