"""`raysft.train` and `raysft.evaluate`: a finished run, what it measured, what it left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from raysft.api.models import LoadedModel, load_model
from raysft.api.tables import frame, table_html
from raysft.errors import ModelError
from raysft.observe.console import printable
from raysft.recipe.schema import Recipe
from raysft.run import steps
from raysft.run.run import RunResult, run_training
from raysft.run.summary import evaluation_line
from raysft.train.history.records import read_metrics

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Evaluation:
    """What was measured of a model; None: not asked for."""

    loss: float | None
    """Nats per held-out target token."""
    perplexity: float | None
    exact_match: float | None
    """Share of greedy answers that equal their reference, 0 to 1."""
    num_prompts: int
    samples: tuple[dict[str, str], ...]
    """The first prompts with `prompt`, `answer` (the model's) and `reference`."""
    record: dict[str, Any]
    """All of it, as it was written."""

    def __str__(self) -> str:
        return evaluation_line(self.record)

    def _repr_html_(self) -> str:
        rows = [(sample["prompt"], sample["answer"], sample["reference"]) for sample in self.samples]
        return table_html(str(self), ("prompt", "answer", "reference"), rows)


def _evaluation(record: Mapping[str, Any] | None) -> Evaluation | None:
    if record is None:
        return None
    return Evaluation(
        loss=record["loss"],
        perplexity=record["perplexity"],
        exact_match=record["exact_match"],
        num_prompts=record["num_prompts"],
        samples=tuple(record.get("samples", ())),
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
class HeldOutMetrics:
    """One held-out loss while training."""

    step: int
    loss: float
    """Nats per target token; of another objective than sft: its loss."""
    perplexity: float | None
    """None: the objective has none."""


@dataclass(frozen=True)
class Metrics:
    """What the steps of the final model measured, in order: of replayed steps the one that counted."""

    steps: tuple[StepMetrics, ...]
    held_out: tuple[HeldOutMetrics, ...]

    def to_frame(self) -> pandas.DataFrame:
        """A row a step, with the held-out loss where there is one. Raises UserError without pandas."""
        losses = {found.step: found.loss for found in self.held_out}
        rows = [{k: v for k, v in asdict(step).items() if k != "line"} for step in self.steps]
        return frame([{**row, "held_out_loss": losses.get(row["step"])} for row in rows])


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

    @property
    def export(self) -> str | None:
        """The export to be used: the merged model where there is one, else the adapter; None without exports."""
        return self.exports[-1] if self.exports else None

    def metrics(self) -> Metrics:
        """Losses and rates of every step, read from the run directory."""
        lines = read_metrics(self.location)
        return Metrics(
            steps=tuple(_step(line) for line in lines if line["kind"] == "step"),
            held_out=tuple(
                HeldOutMetrics(line["step"], line["loss"], line["perplexity"])
                for line in lines
                if line["kind"] == "eval"
            ),
        )

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
    )


def evaluate(recipe: Recipe, model: str | None) -> Evaluation:
    """See verbs.evaluate."""
    found = _evaluation(steps.evaluate(recipe, model))
    assert found is not None
    return found
