"""Where else a run's curves go: TensorBoard, MLflow, W&B, one file each, behind one protocol.

A run's own records are JSON lines, always; a tracker is told what they say.
"""

from __future__ import annotations

from collections.abc import Callable

from raysft.observe.trackers import mlflow, tensorboard, wandb
from raysft.observe.trackers.base import Place, Tracker

TRACKERS: dict[str, Callable[[Place], Tracker]] = {
    "tensorboard": tensorboard.TensorBoard,
    "mlflow": mlflow.MLflow,
    "wandb": wandb.WeightsAndBiases,
}
"""{name in train.trackers: what opens it}. Its library is imported when it is opened."""

PACKAGES = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}
"""{name: the module that it needs}."""
