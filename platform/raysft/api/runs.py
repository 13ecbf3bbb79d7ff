"""`raysft.train` and `raysft.evaluate`: a finished run, what it measured, what it left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from raysft.api.models import LoadedModel, load_model
from raysft.api.tables import frame, table_html
from raysft.errors import ModelError
from raysft.metrics.base import Estimate
from raysft.metrics.estimate import Change
from raysft.observe.console import printable
from raysft.observe.findings import Finding
from raysft.recipe.forgetting import Forgotten
from raysft.recipe.measures import HELD_OUT
from raysft.recipe.schema import Recipe
from raysft.run import steps
from raysft.run.evaluations import evaluation_line
from raysft.run.run import RunResult, run_training
from raysft.run.summary import diagnosis, forgetting
from raysft.train.history.records import evaluated_sets, read_metrics

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Evaluation:
    """What was measured of a model."""

    measures: dict[str, Estimate]
    """By full name, SET/MEASURE: `held_out/loss` (nats per target token), `gsm8k/exact_match`."""
    changes: dict[str, Change]
    """By full name: how far an evaluation after training is from that before, on the same prompts."""
    samples: dict[str, tuple[dict[str, str], ...]]
    """{set: its first prompts with `prompt`, `answer` (the model's) and `reference`}."""
    record: dict[str, Any]
    """All of it, as it was written: {set: metrics, num_prompts, samples}."""

    def __getitem__(self, name: str) -> float:
        """The value of a measure. Raises KeyError where it was not asked for."""
        return self.measures[name].value

    def __str__(self) -> str:
        return evaluation_line(self.record)

    def _repr_html_(self) -> str:
        rows = [(one["prompt"], one["answer"], one["reference"]) for shown in self.samples.values() for one in shown]
        return table_html(str(self), ("prompt", "answer", "reference"), rows)


def _evaluation(record: Mapping[str, Any] | None) -> Evaluation | None:
    if record is None:
        return None
    return Evaluation(
        measures={
            f"{name}/{measure}": Estimate(**estimate)
            for name, found in record.items()
            for measure, estimate in found["metrics"].items()
        },
        changes={
            f"{name}/{measure}": Change(**change)
            for name, found in record.items()
            for measure, change in found.get("changes", {}).items()
        },
        samples={name: tuple(found.get("samples", ())) for name, found in record.items()},
        record=dict(record),
    )


@dataclass(frozen=True)
class StepMetrics:
    """One optimizer step."""

    step: int
    loss: float
    """Nats per target token, the mean over the whole step."""
    learning_rate: float
    step_s: float
    """Seconds."""
    tokens_per_s: float
    mfu: float | None
    """Model FLOP/s over what the devices can do; None: not known of them."""
    skipped: bool
    """Its update was left out: gradients were not finite."""
    line: dict[str, Any]
    """All that was recorded."""


@dataclass(frozen=True)
class SetMetrics:
    """One evaluation of a set while training."""

    step: int
    loss: float
    """Nats per target token; of another objective than sft: its loss."""
    perplexity: float | None
    """None: the objective has none."""
    measures: dict[str, float]
    """The terms and metrics of the objective by name."""


@dataclass(frozen=True)
class Metrics:
    """What the steps of the final model measured, in order: of replayed steps the one that counted."""

    steps: tuple[StepMetrics, ...]
    evaluations: dict[str, tuple[SetMetrics, ...]]
    """By set, in the order of steps."""

    @property
    def held_out(self) -> tuple[SetMetrics, ...]:
        """Those of the held-out data."""
        return self.evaluations.get(HELD_OUT, ())

    def to_frame(self) -> pandas.DataFrame:
        """A row a step, with each set's loss (`held_out/loss`) if there is one. Raises UserError without pandas."""
        losses = {name: {one.step: one.loss for one in found} for name, found in self.evaluations.items()}
        rows = [{k: v for k, v in asdict(step).items() if k != "line"} for step in self.steps]
        return frame([{**row, **{f"{s}/loss": of.get(row["step"]) for s, of in losses.items()}} for row in rows])


@dataclass(frozen=True)
class Run:
    """A finished run."""

    recipe: Recipe
    location: str
    """Its directory."""
    steps: int
    before: Evaluation | None
    """What the untrained model scored; None without held-out data."""
    evaluation: Evaluation | None
    """What the trained model scored."""
    exports: tuple[str, ...]
    """Directories that were written: `adapter`, `merged`, as the recipe wants."""
    report: str
    """Location of its page."""
    profiles: tuple[str, ...]
    """Traces, where profile_steps asked for them."""
    was_finished: bool
    """It had finished before; nothing was changed."""
    ended: str
    """Why it ended before its last step; empty: it did not."""

    @property
    def export(self) -> str | None:
        """The export to be used: the merged model where there is one, else the adapter; None without exports."""
        return self.exports[-1] if self.exports else None

    def metrics(self) -> Metrics:
        """Losses and rates of every step, read from the run directory."""
        lines, evaluations = read_metrics(self.location), dict[str, list[SetMetrics]]()
        for line in lines:
            for name, found in evaluated_sets(line).items() if line["kind"] == "eval" else ():
                evaluations.setdefault(name, []).append(_set_metrics(line["step"], found))
        return Metrics(
            steps=tuple(_step(line) for line in lines if line["kind"] == "step"),
            evaluations={name: tuple(found) for name, found in evaluations.items()},
        )

    def diagnosis(self) -> tuple[Finding, ...]:
        """What its own records say is wrong with it, with evidence and changes of the recipe that may help; empty:
        nothing was found."""
        return tuple(diagnosis(self.location, self.recipe)[0])

    def forgetting(self) -> tuple[Forgotten, ...]:
        """What the guarded sets of evaluate.sets have lost by training: `.lost` over 0: it was forgotten."""
        return tuple(forgetting(self.location, self.recipe))

    def model(self) -> LoadedModel:
        """The exported model and its tokenizer, here, on the CPU. Raises ModelError when none was exported."""
        if self.export is None:
            raise ModelError(
                f"the run {self.location} has no export",
                got="a recipe that asks for none",
                expected="a merged model",
                fix="set export.merged: true and call raysft.train again, or `raysft export`",
            )
        return load_model(self.export)

    def __str__(self) -> str:
        return printable("\n".join(f"{name:12} {value}" for name, value in self._facts()))

    def _repr_html_(self) -> str:
        return table_html(f"run {self.recipe.name}", (), self._facts())

    def _facts(self) -> list[tuple[str, str]]:
        measured = {"before": self.before, "after": self.evaluation}
        return [
            ("run", self.location),
            ("steps", f"{self.steps:,}"),
            *((when, str(evaluation)) for when, evaluation in measured.items() if evaluation is not None),
            *(("export", location) for location in self.exports),
            ("report", self.report),
        ]


def _step(line: Mapping[str, Any]) -> StepMetrics:
    return StepMetrics(
        step=line["step"],
        loss=line["loss"],
        learning_rate=line["learning_rate"],
        step_s=line["step_s"],
        tokens_per_s=line["tokens_per_s"],
        mfu=line["mfu"],
        skipped=line["skipped"],
        line=dict(line),
    )


def _set_metrics(step: int, found: Mapping[str, Any]) -> SetMetrics:
    measures = {**found.get("terms", {}), **found.get("metrics", {})}  # lines of earlier versions have neither
    return SetMetrics(step, found["loss"], found["perplexity"], measures)


def train(recipe: Recipe, *, profile_steps: int) -> Run:
    """See verbs.train."""
    return _run(recipe, run_training(recipe, profile_steps=profile_steps))


def _run(recipe: Recipe, result: RunResult) -> Run:
    return Run(
        recipe=recipe,
        location=result.run,
        steps=result.steps,
        before=_evaluation(result.before),
        evaluation=_evaluation(result.after),
        exports=result.exports,
        report=result.report,
        profiles=result.profiles,
        was_finished=result.was_finished,
        ended=result.ended,
    )


def evaluate(recipe: Recipe, model: str | None) -> Evaluation:
    """See verbs.evaluate."""
    found = _evaluation(steps.evaluate(recipe, model))
    assert found is not None
    return found
