"""A run told to others: the facts of its model card, its report page while it goes on and when it has ended."""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import yaml

import raysft
from raysft import storage
from raysft.data.prepare.prepared import Prepared
from raysft.data.read.sources import describe_line, expand
from raysft.errors import InterruptedRunError, RaysftError, UserError, redacted
from raysft.model.card import CardFacts
from raysft.observe.diagnosis import diagnose
from raysft.observe.findings import Finding
from raysft.observe.goodput import IncidentRow, TimeFacts
from raysft.observe.report import AttemptFacts, ReportFacts, Status, render_report
from raysft.recipe.forgetting import Forgotten, forgotten, guards
from raysft.recipe.schema import Recipe
from raysft.recipe.secrets import hidden
from raysft.run.evaluations import read_evaluation
from raysft.run.garbage import no_collection
from raysft.run.kept_benchmarks import read_harness
from raysft.run.rundir import fingerprints_of
from raysft.train.commits.lineage import lineage_ranges
from raysft.train.history.account import Account, Cost, History, read_history
from raysft.train.history.failures import read_failures
from raysft.train.history.goodput import CLASSES
from raysft.train.history.records import AttemptLines, read_ledger, read_metrics
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


@dataclass(frozen=True)
class RunReport:
    """report.html of one run: written again as often as there is news."""

    run: str
    recipe: Recipe
    arithmetic: Sequence[str]
    """ResolvedRun.describe() and Schedule.describe()."""
    certificate: Sequence[str]
    """What the training data became."""
    fingerprints: Mapping[str, str]

    @no_collection()
    def page(self, status: Status, why: str = "", home: str = "", history: History | None = None) -> str:
        """The page as HTML text. why: it ended. home: an address that it leads back to. history: if at hand."""
        history = history or read_history(self.run)
        metrics, time, now = history.metrics, time_facts(history.account), datetime.now(UTC)
        before, after = (read_evaluation(self.run, when, self.fingerprints) for when in ("before", "after"))
        findings, places = diagnosis(self.run, self.recipe, metrics)
        facts = ReportFacts(
            run=self.recipe.name,
            status=status,
            ended_at=("as of " if status == "running" else "") + now.strftime("%Y-%m-%d %H:%M UTC"),
            wall_s=sum(time.seconds.values()),
            arithmetic=self.arithmetic,
            metrics=metrics,
            before=before,
            after=after,
            forgotten=forgotten(guards(self.recipe), before or {}, after or {}),
            certificate=self.certificate,
            attempts=_attempts(self.run, status, history.every),
            recipe_yaml=_yaml(self.recipe.model_dump(mode="json", exclude_defaults=True)),
            recipe_whole=_yaml(self.recipe.model_dump(mode="json")),
            fingerprints=self.fingerprints,
            versions={"raysft": raysft.__version__, **{n: importlib.metadata.version(n) for n in PACKAGES}},
            time=time,
            findings=findings,
            places=places,
            benchmarks=read_harness(self.run),
            why=why,
            home=home,
        )
        return render_report(facts)

    def write(self, status: Status, why: str = "") -> str:
        """Write the page; returns its location. why: it ended."""
        location = storage.join(self.run, "report.html")
        storage.write_bytes(location, self.page(status, why).encode())
        return location

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Inside, whatever ends the run stands in its page."""
        self.keep()
        try:
            yield
        except BaseException as error:
            self.keep(error)
            raise

    def keep(self, ended_by: BaseException | None = None) -> None:
        """Write the page of a run that goes on, or was ended by an error. That it cannot be written ends nothing."""
        asked = isinstance(ended_by, InterruptedRunError | KeyboardInterrupt | SystemExit)
        status: Status = "running" if ended_by is None else "stopped" if asked else "failed"
        why = str(ended_by) if isinstance(ended_by, RaysftError) else redacted(repr(ended_by))
        try:
            self.write(status, "" if ended_by is None else why)
        except Exception as error:  # whatever it is: a page is worth no run, and hides no other error
            logger.warning("the run's report.html is not up to date: %s: %s", type(error).__name__, error)


def forgetting(run: str, recipe: Recipe) -> list[Forgotten]:
    """What a run's guarded sets have lost by its training, by what is kept in it."""
    prints = fingerprints_of(run)
    if prints is None:
        return []
    before, after = (read_evaluation(run, when, prints) or {} for when in ("before", "after"))
    return forgotten(guards(recipe), before, after)


def _yaml(fields: dict[str, Any]) -> str:
    return yaml.safe_dump(hidden(fields), sort_keys=False, allow_unicode=True)


def diagnosis(
    run: str, recipe: Recipe, metrics: Sequence[Mapping[str, Any]] | None = None
) -> tuple[list[Finding], dict[int, list[str]]]:
    """What the run's own records say is wrong with it, and where the samples of the steps that it names come from.

    metrics: read_metrics(), if at hand.
    """
    metrics = read_metrics(run) if metrics is None else metrics
    findings = diagnose(metrics, recipe)
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


def time_facts(account: Account) -> TimeFacts:
    """Where a run's time went so far."""
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


def _attempts(run: str, status: Status, every: AttemptLines) -> list[AttemptFacts]:
    """Every attempt of the lineage, with the reason it ended; the newest ends as the run does."""
    failures = {failure.attempt: failure.what for failure in reversed(read_failures(run))}
    facts = []
    ranges = lineage_ranges(run)
    for number, after, _ in ranges:
        is_last = number == ranges[-1][0]
        steps = [line["step"] for line in every.get(number, ())]  # also those that were done again
        ended = status if is_last else failures.get(number, "lost (process or node died)")
        facts.append(AttemptFacts(number, after, max(steps, default=after), ended))
    return facts
