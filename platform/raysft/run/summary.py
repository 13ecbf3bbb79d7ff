"""A finished run told to others: the facts of its model card, its report page, lines for the terminal."""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import yaml

import raysft
from raysft import storage
from raysft.data.prepare.prepared import Prepared
from raysft.data.read.sources import describe_line, expand
from raysft.data.report.preview import certificate
from raysft.errors import UserError
from raysft.model.card import CardFacts
from raysft.observe.diagnosis import diagnose
from raysft.observe.findings import Finding
from raysft.observe.goodput import IncidentRow, TimeFacts
from raysft.observe.report import AttemptFacts, ReportFacts, render_report
from raysft.recipe.schema import Recipe
from raysft.recipe.secrets import hidden
from raysft.run.evaluations import read_evaluation
from raysft.train.commits.lineage import lineage_ranges
from raysft.train.history.account import Cost, read_account
from raysft.train.history.failures import read_failures
from raysft.train.history.goodput import CLASSES
from raysft.train.history.records import attempt_metrics, read_ledger, read_metrics
from raysft.train.state import TrainState

logger = logging.getLogger(__name__)

MOST_PLACES = 6
"""Samples of a step that are named."""

PACKAGES = ("torch", "transformers", "peft", "deepspeed", "ray")


def card_facts(
    state: TrainState,
    prepared: Prepared,
    fingerprints: dict[str, str],
    before: dict[str, Any] | None,
    after: dict[str, Any] | None,
) -> CardFacts:
    """What the model card tells. state: of the checkpoint that is exported."""
    return CardFacts(
        steps=state.step,
        train_samples=prepared.train_manifest["counts"]["examples"],
        train_tokens=state.tokens,
        train_target_tokens=int(state.target_tokens),
        fingerprints=fingerprints,
        before=before or {},
        after=after or {},
    )


def write_report(
    run: str, recipe: Recipe, arithmetic: list[str], prepared: Prepared, fingerprints: dict[str, str]
) -> str:
    """Write report.html; returns its location."""
    metrics, time = read_metrics(run), time_facts(run)
    findings, places = diagnosis(run, recipe)
    facts = ReportFacts(
        run=recipe.name,
        status="finished",
        ended_at=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        wall_s=sum(time.seconds.values()),
        arithmetic=arithmetic,
        metrics=metrics,
        before=read_evaluation(run, "before", fingerprints),
        after=read_evaluation(run, "after", fingerprints),
        certificate=certificate(prepared.train_manifest),
        attempts=_attempts(run),
        recipe_yaml=yaml.safe_dump(hidden(recipe.model_dump(mode="json", exclude_defaults=True)), sort_keys=False),
        fingerprints=fingerprints,
        versions={"raysft": raysft.__version__, **{name: importlib.metadata.version(name) for name in PACKAGES}},
        time=time,
        findings=findings,
        places=places,
    )
    location = storage.join(run, "report.html")
    storage.write_bytes(location, render_report(facts).encode())
    return location


def diagnosis(run: str, recipe: Recipe) -> tuple[list[Finding], dict[int, list[str]]]:
    """What the run's own records say is wrong with it, and where the samples of the steps that it names come from."""
    findings = diagnose(read_metrics(run), recipe)
    steps = dict.fromkeys(step for finding in findings for step in finding.steps)
    ledger = read_ledger(run) if steps else {}
    return findings, {step: _places(recipe, ledger[step]) for step in steps if step in ledger}


def _places(recipe: Recipe, samples: Sequence[int]) -> list[str]:
    """Files and lines of samples; their numbers where the files are gone."""
    shown = sorted({*samples})[:MOST_PLACES]
    try:
        files = expand(recipe.data.sources, format=recipe.data.format, columns=recipe.data.columns, purpose="train")
        places = [describe_line(sample, files) for sample in shown]
    except (UserError, OSError, IndexError) as error:
        logger.debug("samples are told by their numbers: %s", error)
        places = [f"sample {sample}" for sample in shown]
    more = len({*samples}) - len(shown)
    return [*places, f"{more} more"] if more else places


def time_facts(run: str) -> TimeFacts:
    """Where a run's time went so far."""
    account = read_account(run)
    return TimeFacts(account.seconds, CLASSES, [_incident_row(cost) for cost in account.costs])


def _incident_row(cost: Cost) -> IncidentRow:
    incident = cost.incident
    return IncidentRow(
        at=incident.at,
        kind=incident.kind,
        what=incident.what,
        step=incident.step,
        detected_after_s=cost.detected_after_s,
        steps_lost=cost.steps_lost,
        lost_s=cost.lost_s,
        back_after_s=cost.back_after_s,
    )


def _attempts(run: str) -> list[AttemptFacts]:
    """Every attempt of the lineage, with the reason it ended."""
    failures = {failure.attempt: failure.what for failure in reversed(read_failures(run))}
    facts = []
    ranges = lineage_ranges(run)
    for number, after, _ in ranges:
        steps = [line["step"] for line in attempt_metrics(run, number)]
        is_last = number == ranges[-1][0]
        ended = "finished" if is_last else failures.get(number, "lost (process or node died)")
        facts.append(AttemptFacts(number, after, max(steps, default=after), ended))
    return facts
