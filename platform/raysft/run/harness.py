"""`raysft evaluate harness`: tasks of lm-evaluation-harness on a model, kept in its run (kept_benchmarks.py)."""

from __future__ import annotations

import json

from raysft import storage
from raysft.evaluate.harness import Asked, harness_version, load_tasks, run_tasks
from raysft.observe.benchmarks import harness_lines
from raysft.run.kept_benchmarks import keep, place
from raysft.run.open_model import open_model, run_of


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
    keep(run, found)
    return [*told, f"kept         {place(run)}"]
