"""What lm-evaluation-harness gave of a run's model, as it lies in the run; no harness and no torch is needed.

<run>/evaluation/harness.json holds tasks of one model by one version of the harness: of another one it begins anew.
"""

from __future__ import annotations

from typing import Any

from raysft import sealed, storage
from raysft.observe.benchmarks import harness_lines

_SHAPE: sealed.Shape = {"harness": str, "model": str, "name": str, "tasks": dict}
_TASK: sealed.Shape = {
    "metrics": dict,
    "hash": str,
    "version": (int, float, str, type(None)),
    **dict.fromkeys(("samples", "num_fewshot"), (int, type(None))),
}
_METRIC: sealed.Shape = {"value": sealed.NUMBER, "stderr": (*sealed.NUMBER, type(None))}


def read_harness(run: str) -> dict[str, Any] | None:
    """What is kept in a run; None: nothing, or it is damaged, which is told."""
    found = sealed.read(place(run), _SHAPE)
    problems = [] if found is None else list(filter(None, map(_problem, found["tasks"].values())))
    if problems:
        sealed.passed_over(place(run), problems[0])
        return None
    return found


def _problem(task: Any) -> str | None:
    """What is wrong with what is kept of a task."""
    wrong = sealed.problem_of(task, _TASK)
    return wrong or next(filter(None, (sealed.problem_of(one, _METRIC) for one in task["metrics"].values())), None)


def keep(run: str, found: dict[str, Any]) -> None:
    """Tasks of earlier commands stay, where they are of the same model by the same harness."""
    before = read_harness(run)
    if before is not None and all(before[key] == found[key] for key in ("harness", "model")):
        found = {**found, "tasks": {**before["tasks"], **found["tasks"]}}
    sealed.write(place(run), found)


def kept_lines(run: str) -> list[str]:
    """The same for `raysft report`."""
    record = read_harness(run)
    return harness_lines(record) if record else []


def place(run: str) -> str:
    """Where it lies."""
    return storage.join(run, "evaluation", "harness.json")
