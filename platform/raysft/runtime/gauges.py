"""A run's numbers as metrics of Ray, which Prometheus scrapes from the node of the driver as `ray_raysft_NAME`.

Names and meanings stand in GAUGES and TIMES; the alerts and the dashboard of k8s/overlays/monitoring read no others.
Each has the label `run`.
"""

from __future__ import annotations

from collections.abc import Mapping

from ray.util.metrics import Gauge

GAUGES = {
    "step": "optimizer steps that are done",
    "total_steps": "optimizer steps of the whole run",
    "attempt": "number of the attempt that trains; a restart is one more",
    "loss": "loss of the newest step",
    "held_out_loss": "loss of the newest evaluation on the held-out data",
    "grad_norm": "norm of the gradients before they are clipped",
    "learning_rate": "learning rate of the newest step",
    "tokens_per_second": "tokens of the newest step, of all workers, over its wall time",
    "mfu": "share of the peak FLOP/s that the newest step reached, 0 to 1",
    "data_wait_share": "share of the newest step that the training waited for data, 0 to 1",
    "peak_bytes": "largest memory of a worker so far",
    "reserved_bytes": "largest memory so far that a worker's CUDA allocator held, fragments included; GPUs only",
    "device_bytes": "memory in use on the fullest GPU as its driver says, by all processes; GPUs only",
    "commit_age_seconds": "time since the newest checkpoint was seen, or since the driver began",
    "checkpoint_stall_seconds": "time that the training waited for its newest save",
    "goodput": "share of the run's time so far in optimizer steps that count, 0 to 1",
    "failures": "incidents so far that ended an attempt and were not planned",
}
"""{name: what it is}."""
TIMES = "time_seconds"
"""Name of the gauge that has a second label, `class`: seconds of the run so far in each class of goodput."""


class RunGauges:
    """The gauges of one run, set by its driver. Ray must be initialised."""

    def __init__(self, run: str) -> None:
        self._gauges = {name: Gauge(f"raysft_{name}", told, tag_keys=("run",)) for name, told in GAUGES.items()}
        self._times = Gauge(f"raysft_{TIMES}", "seconds of the run so far, by class", tag_keys=("run", "class"))
        self._tags = {"run": run}

    def set(self, values: Mapping[str, float]) -> None:
        """{name of GAUGES: its value}. Raises KeyError for another name."""
        for name, value in values.items():
            self._gauges[name].set(value, self._tags)

    def set_times(self, seconds: Mapping[str, float]) -> None:
        """{class of goodput: seconds so far}."""
        for name, value in seconds.items():
            self._times.set(value, {**self._tags, "class": name})
