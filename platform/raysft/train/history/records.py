"""What an attempt leaves to be read: metrics (rank 0) and the ledger of consumed samples (each rank).

    metrics/attempt-0001.jsonl              how it began, one line a step, one a held-out loss
    ledger/attempt-0001/rank-00000.jsonl    a header, then the samples of each step, from the engine's tensors

A step that was replayed after a failure stands in two attempts. Readers follow the lineage: of every step the
attempt counts whose update is in the final model.
"""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from raysft import sealed, storage
from raysft.lines import LineFile
from raysft.objectives.base import NLL
from raysft.objectives.reduce import Reduced
from raysft.recipe.measures import HELD_OUT
from raysft.train.commits.layout import own_lines, run_mathematics
from raysft.train.commits.lineage import lineage_ranges, read_attempts
from raysft.train.history.paths import RANK_LEDGER, RunPaths
from raysft.train.state import StepInfo


@dataclass(frozen=True)
class StartFacts:
    """How an attempt begins; `step` is the one it goes on from."""

    step: int
    micro_batch_rows: int
    """Rows of a forward pass: the recipe's, or fewer where those did not fit into memory."""
    probe_s: float
    """Time of the first passes, at the largest rows that can come."""
    peak_flops: float
    """FLOP/s of all workers together at their best, for the MFU."""
    peak_basis: str
    """Where that figure comes from."""
    total_steps: int = 0
    """Steps of the whole run; 0: not told, by an earlier version."""


MEMORY = ("peak_bytes", "reserved_bytes", "device_bytes")
"""Names of a step's memory in its line; the last two only where there is a GPU."""
_METRICS: dict[str, sealed.Shape] = {
    "start": {"step": int, "micro_batch_rows": int, "probe_s": sealed.NUMBER},
    "eval": {"step": int, **dict.fromkeys(("loss", "perplexity"), (int, float, type(None)))},
    "step": {
        "step": int,
        **dict.fromkeys(("at", "loss", "learning_rate", "step_s", "tokens_per_s", "data_wait_share"), sealed.NUMBER),
        **dict.fromkeys(("total_tokens", "peak_bytes"), int),
        "total_target_tokens": sealed.NUMBER,
        "skipped": bool,
        "mfu": (int, float, type(None)),
    },
}
_LEDGER: dict[str, sealed.Shape] = {"step": {"step": int, "samples": list}, "rank": {"rank": int, "host": str}}


class Records:
    """Written by every rank of an attempt, each to its own files."""

    def __init__(self, run: str, attempt: int, rank: int) -> None:
        paths = RunPaths(run)
        self._ledger = LineFile(paths.ledger(attempt, rank))
        self._metrics = LineFile(paths.metrics(attempt))
        self._is_writer = rank == 0
        self._peak_flops = math.nan
        self._origin = {"mathematics": run_mathematics(run)}
        self._ledger.append({**self._origin, "rank": rank, "pid": os.getpid(), "host": socket.gethostname()})

    def start(self, facts: StartFacts) -> None:
        """Before the first step."""
        self._peak_flops = facts.peak_flops
        if self._is_writer:
            self._metrics.append({"kind": "start", **self._origin, **asdict(facts)})

    def step(self, info: StepInfo) -> None:
        """One optimizer step."""
        self._ledger.append({"step": info.state.step, "samples": info.sample_ids})
        if self._is_writer:
            line = asdict(info)
            del line["sample_ids"], line["notice"], line["rank_s"]
            if not info.orthogonalised:
                del line["orthogonalised"]  # of AdamW
            for name in ("reserved_bytes", "device_bytes"):
                if line[name] is None:
                    del line[name]  # without a GPU
            state = line.pop("state")
            rates = _rates(info, self._peak_flops) | _slowest(info.rank_s)
            self._metrics.append({"kind": "step", "at": time.time(), **line, **rates, **_totals(state)})

    def evaluation(self, step: int, found: Mapping[str, Reduced]) -> None:
        """One evaluation, {set: what its rows gave}: the held-out data in the line itself, others in its `sets`."""
        if self._is_writer:
            lines = {name: _evaluated(one) for name, one in found.items()}
            own = lines.pop(HELD_OUT, _NOT_HELD_OUT)
            self._metrics.append({"kind": "eval", "step": step, **own, **({"sets": lines} if lines else {})})

    def flush(self) -> None:
        """Make it all readable (before a commit, so that the ledger is never behind the lineage)."""
        self._ledger.flush()
        if self._is_writer:
            self._metrics.flush()


def evaluated_sets(line: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """{set: its loss, terms, metrics, perplexity, target tokens (weighted)} of an `eval` line."""
    own = {HELD_OUT: line} if line["loss"] is not None else {}
    return own | dict(line.get("sets", {}))


def _evaluated(found: Reduced) -> dict[str, Any]:
    """Perplexity: of the target tokens, where they are a term or a metric."""
    nll = found.terms.get(NLL, found.metrics.get(NLL))
    perplexity = None if nll is None else math.exp(min(nll, 700.0))
    told = {"terms": found.terms, "metrics": found.metrics, "target_tokens": found.target_tokens}
    first = {} if found.first is None else {"first": asdict(found.first)}
    return {"loss": found.loss, "perplexity": perplexity, **told, **first}


_NOT_HELD_OUT = {"loss": None, "perplexity": None}
"""An evaluation of named sets alone."""


def attempt_metrics(run: str, number: int) -> Iterator[dict[str, Any]]:
    """Metric lines of one attempt, as they were written: `start`, `step` and `eval`."""
    location, newest = RunPaths(run).metrics(number), 0
    for line in own_lines(run, location, {"kind": {"kind": str}}):
        shape = _METRICS.get(line["kind"])
        problem = "of another kind" if shape is None else sealed.problem_of(line, shape) or _odd(line)
        if problem is None and line["kind"] == "step":
            problem = None if line["step"] > newest else f"step {line['step']} after {newest}"
            newest = max(newest, line["step"])
        if problem is None:
            yield line
        else:
            sealed.passed_over(f"a line of {location}", problem)


def _odd(line: Mapping[str, Any]) -> str | None:
    """What no writer leaves, where a shape says nothing: in fields that older versions had not."""
    if line["kind"] == "step" and not (line["step_s"] > 0 and type(line.get("grad_norm", 0.0)) in sealed.NUMBER):
        return "a step without time, or a norm that is no number"
    for name in ("terms", "metrics"):
        of = line.get(name, _NOTHING)
        if type(of) is not dict or any(type(value) not in sealed.NUMBER for value in of.values()):
            return f"its {name} are {of!r:.60}"
    return None


_NOTHING: dict[str, float] = {}


AttemptLines = Mapping[int, Sequence[dict[str, Any]]]
"""{attempt: its metric lines}."""


def all_metrics(run: str) -> AttemptLines:
    """Metric lines of every attempt, those that were superseded too."""
    return {attempt.number: list(attempt_metrics(run, attempt.number)) for attempt in read_attempts(run)}


def of_lineage(every: AttemptLines, ranges: Sequence[tuple[int, int, int | None]]) -> list[dict[str, Any]]:
    """Those metric lines that are of the final lineage, in order of steps. ranges: lineage_ranges()."""
    lines = []
    for number, after, until in ranges:
        for line in every.get(number, ()):
            is_first = line["kind"] == "start" or (line["kind"] == "eval" and line["step"] == 0)
            if (after < line["step"] or is_first) and (until is None or line["step"] <= until):
                lines.append(line)
    return lines


def read_metrics(run: str) -> list[dict[str, Any]]:
    """Metric lines of the final lineage, in order of steps."""
    ranges = lineage_ranges(run)
    return of_lineage({number: list(attempt_metrics(run, number)) for number, _, _ in ranges}, ranges)


def read_ledger(run: str) -> dict[int, list[int]]:
    """{step: samples of that optimizer step, over all ranks} of the final lineage."""
    ledger: dict[int, list[int]] = {}
    for number, after, until in lineage_ranges(run):
        root = RunPaths(run).ledgers(number)
        for name in sealed.names(root, RANK_LEDGER):
            for line in own_lines(run, storage.join(root, name), _LEDGER):
                if "step" in line and after < line["step"] and (until is None or line["step"] <= until):
                    ledger.setdefault(line["step"], []).extend(line["samples"])
    return dict(sorted(ledger.items()))


def ledger_host(run: str, attempt: int, rank: int) -> str:
    """The node that a rank of an attempt runs on; `?` while an object store does not show it yet."""
    location = RunPaths(run).ledger(attempt, rank)
    try:
        header = next(iter(own_lines(run, location, _LEDGER)), {})
    except OSError:
        return "?"
    return str(header.get("host", "?"))


def _rates(info: StepInfo, peak_flops: float) -> dict[str, float | None]:
    """Speed, use of the hardware and where the time went. MFU: Chowdhery et al. 2022, PaLM, appendix B."""
    mfu = info.flops / info.step_s / peak_flops
    return {
        "tokens_per_s": round(info.tokens / info.step_s, 1),
        "target_tokens_per_s": round(info.target_tokens / info.step_s, 1),
        "mfu": None if math.isnan(mfu) else round(mfu, 4),
        "data_wait_share": round(info.data_wait_s / info.step_s, 4),
        "update_s": max(0.0, info.step_s - info.data_wait_s - info.forward_backward_s),
    }


def _slowest(rank_s: Sequence[float]) -> dict[str, float]:
    """Which rank took longest for what it does alone, how long, and the ranks' mean."""
    if not rank_s:
        return {}
    slowest = max(range(len(rank_s)), key=rank_s.__getitem__)
    return {"slowest_rank": slowest, "slowest_rank_s": rank_s[slowest], "mean_rank_s": sum(rank_s) / len(rank_s)}


def _totals(state: dict[str, Any]) -> dict[str, Any]:
    """State fields by names that do not clash with the step's own."""
    return {
        "step": state["step"],
        "skipped_steps": state["skipped_steps"],
        "total_tokens": state["tokens"],
        "total_target_tokens": state["target_tokens"],
    }
