"""Results of lm-evaluation-harness as they are told: in lines, on a run's page, beside those of other runs. Pure.

A record is what run/harness.py keeps: {harness: version, model, name, tasks: {name: evaluate/harness.py's}}.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Fields = Mapping[str, Any]


@dataclass(frozen=True)
class BenchmarkRow:
    """One metric of a task."""

    task: str
    metric: str
    value: str
    """With its standard error, where the harness gives one."""
    documents: str
    """`50 (the first 50)`: it was limited to them."""
    shots: str
    version: str
    """The task's own."""


def benchmark_rows(record: Fields) -> list[BenchmarkRow]:
    """The tasks and groups of a record, in its order."""
    rows = []
    for name, task in record["tasks"].items():
        documents = f"{task['samples']:,}" if task["samples"] else ""
        limited = f" (the first {task['limit']:,})" if task.get("limit") and documents else ""
        shots, version = ("" if task[field] is None else str(task[field]) for field in ("num_fewshot", "version"))
        for key, metric in task["metrics"].items():
            rows.append(BenchmarkRow(name, _title(key), _value(metric), documents + limited, shots, version))
    return rows


def harness_lines(record: Fields) -> list[str]:
    """For a terminal: `harness      arc_easy: acc 0.4312 ± 0.0101 of 2,376, 0-shot`."""
    lines = []
    for name, task in record["tasks"].items():
        told = [f"{_title(key)} {_value(metric)}" for key, metric in task["metrics"].items()]
        of = f" of {task['samples']:,}" if task["samples"] else ""
        shots = f", {task['num_fewshot']}-shot" if task["num_fewshot"] is not None else ""
        lines.append(f"harness      {name}: {', '.join(told)}{of}{shots}")
    return [*lines, f"             lm-evaluation-harness {record['harness']}; {record['name']}"] if lines else []


def compared_benchmarks(records: Sequence[Fields | None]) -> list[tuple[str, list[str]]]:
    """(task and metric, its value in each record), with the difference from the first one below, and its standard
    error, where both were asked the same. None: nothing is kept of that run.

    The error is that of independent samples: answers of each document are not kept, and pairs would be surer.
    """
    names = dict.fromkeys(
        (task, key) for one in records if one for task, found in one["tasks"].items() for key in found["metrics"]
    )
    first = records[0]
    rows = []
    for task, key in names:
        cells = []
        for record in records:
            own = None if record is None else record["tasks"].get(task)
            if own is None or key not in own["metrics"]:
                cells.append("-")
                continue
            told = _value(own["metrics"][key])
            if record is not first and first is not None and key in first["tasks"].get(task, {}).get("metrics", {}):
                told += "\n" + _gap(first, record or {}, task, key)
            cells.append(told)
        rows.append((f"{task}: {_title(key)}", cells))
    return rows


def _gap(first: Fields, other: Fields, task: str, key: str) -> str:
    """`+0.0312 ± 0.0143`, or why there is none."""
    one, two = first["tasks"][task], other["tasks"][task]
    if first["harness"] != other["harness"] or one["version"] != two["version"]:
        return "another version"
    if one["hash"] != two["hash"] or one["num_fewshot"] != two["num_fewshot"]:
        return "asked otherwise"
    before, after = one["metrics"][key], two["metrics"][key]
    errors = [metric["stderr"] for metric in (before, after)]
    told = f"{after['value'] - before['value']:+.4f}"
    return told if None in errors else f"{told} ± {math.hypot(*errors):.4f}"


def _title(key: str) -> str:
    return key.removesuffix(",none").replace(",", " by ")


def _value(metric: Fields) -> str:
    return f"{metric['value']:.4f}" + (f" ± {metric['stderr']:.4f}" if metric["stderr"] is not None else "")
