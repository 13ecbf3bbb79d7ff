"""`raysft evaluate harness`: tasks of lm-evaluation-harness on a model, and where its run keeps what they gave.

What was measured lies in <run>/evaluation/harness.json, task by task, of one model and one version of the harness: of
another one it begins anew.
"""

from __future__ import annotations

import json
import logging
from typing import Any

from raysft import sealed, storage
from raysft.evaluate.harness import Asked, harness_lines, harness_version, load_tasks, run_tasks
from raysft.run.open_model import open_model, run_of

logger = logging.getLogger(__name__)

_SHAPE: sealed.Shape = {"harness": str, "model": str, "name": str, "tasks": dict}


def harness(location: str, asked: Asked, out: str | None = None) -> list[str]:
    """Measure, keep in the run that the model is of, and tell. out: a JSON file besides. Raises RaysftError."""
    version, loaded = harness_version(), load_tasks(asked)
    model = open_model(location, batch_size=asked.batch_size)
    found = {
        "harness": version,
        "model": model.identity,
        "name": model.name,
        "tasks": {name: {**one, "limit": asked.limit} for name, one in run_tasks(model, loaded, asked).items()},
    }
    if out is not None:
        storage.write_bytes(storage.absolute(out), json.dumps(found, indent=1).encode())
    run, recipe = run_of(storage.absolute(location).rstrip("/"))
    told = [*harness_lines(found), *([f"results      {out}"] if out is not None else [])]
    if recipe is None:
        return [*told, *([] if out else ["             kept nowhere: the model is of no run; --out FILE keeps it"])]
    sealed.write(_place(run), _merged(read_harness(run), found))
    return [*told, f"kept         {_place(run)}"]


def read_harness(run: str) -> dict[str, Any] | None:
    """What is kept in a run; None: nothing, or it is damaged, which is told."""
    return sealed.read(_place(run), _SHAPE)


def kept_lines(run: str) -> list[str]:
    """The same for `raysft report`."""
    record = read_harness(run)
    return harness_lines(record) if record else []


def _merged(before: dict[str, Any] | None, found: dict[str, Any]) -> dict[str, Any]:
    """Tasks of earlier commands stay, where they are of the same model by the same harness."""
    if before is None or any(before[key] != found[key] for key in ("harness", "model")):
        return found
    return {**found, "tasks": {**before["tasks"], **found["tasks"]}}


def _place(run: str) -> str:
    return storage.join(run, "evaluation", "harness.json")
