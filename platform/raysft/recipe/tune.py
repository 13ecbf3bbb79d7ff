"""The `tune:` section: which fields of a recipe are searched, how, for what, and for how long. Pure.

Owns what a search may be and the rules over its fields; a trial's values are drawn in search/study.py.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, Strict, WithJsonSchema

from raysft.metrics.base import Mode
from raysft.recipe.cleaning import Section
from raysft.recipe.measures import HELD_OUT_LOSS, OLD_NAMES, full_names
from raysft.recipe.sections.objective import MEASURES_OF_ROWS

Scalar = bool | int | float | str
Value = Scalar | None | list[Any]
Condition = dict[str, Value]

_WHEN: Condition = Field(
    default_factory=dict,
    description="Only where these fields have these values (or one of a list): {method.kind: lora}.",
)


class Uniform(Section):
    """A number between low and high, each as likely."""

    distribution: Literal["uniform"]
    low: float = Field(description="Smallest value.")
    high: float = Field(description="Largest value.")
    points: int | None = Field(None, ge=2, description="Values on a grid, evenly apart. Needed for `grid`.")
    when: Condition = _WHEN


class LogUniform(Section):
    """A positive number between low and high, each order of magnitude as likely."""

    distribution: Literal["loguniform"]
    low: float = Field(gt=0, description="Smallest value.")
    high: float = Field(gt=0, description="Largest value.")
    points: int | None = Field(None, ge=2, description="Values on a grid, with one ratio between. Needed for `grid`.")
    when: Condition = _WHEN


class Int(Section):
    """A whole number from low to high, both included."""

    distribution: Literal["int"]
    low: int = Field(description="Smallest value.")
    high: int = Field(description="Largest value.")
    step: int = Field(1, ge=1, description="Gap between two values.")
    log: bool = Field(False, description="Each order of magnitude as likely (step 1).")
    when: Condition = _WHEN


class Choice(Section):
    """One of the values, in no order."""

    distribution: Literal["choice"]
    values: Annotated[tuple[Value, ...], Strict(False)] = Field(min_length=1, description="What to choose from.")
    when: Condition = _WHEN


Distribution = Annotated[Uniform | LogUniform | Int | Choice, Field(discriminator="distribution")]

COSTS: dict[str, Mode] = {"train_loss": "min", "tokens_per_s": "max", "peak_bytes": "min"}
"""{metric of the steps themselves: which way is better}. All others are measures of a set, SET/MEASURE."""

Metric = Annotated[
    str,
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": [*COSTS, *OLD_NAMES], "type": "string"},
                {"pattern": "^[A-Za-z][A-Za-z0-9_-]*/[a-z0-9_]+$", "type": "string"},
            ]
        }
    ),
]
"""What tune_checks.py knows: a name of COSTS, or SET/MEASURE."""

Metrics = Annotated[tuple[Metric, ...], Strict(False), AfterValidator(full_names)]


def mode_of(metric: str) -> Mode | None:
    """Which way is better; None: no such metric."""
    return COSTS.get(metric) or MEASURES_OF_ROWS.get(metric.partition("/")[2])


SchedulerKind = Literal["asha", "hyperband", "median", "pbt", "none"]


class Scheduler(Section):
    """Which running trials are ended early. They are judged at rungs: min_steps, min_steps x reduction, ..."""

    kind: SchedulerKind = Field(
        "asha",
        description="asha, hyperband (asha with several min_steps; with tpe: BOHB), median (worse than the median so "
        "far), pbt (the worst copy weights from the best and vary their fields), none.",
    )
    min_steps: int | None = Field(
        None,
        ge=1,
        description="Steps before a trial may be ended; for pbt between two rounds. Default: the first "
        "held-out loss.",
    )
    reduction: int = Field(3, ge=2, description="One of so many goes on at a rung (asha, hyperband).")
    quantile: float = Field(0.25, gt=0, le=0.5, description="Share of the trials that copy, and are copied (pbt).")


def _listed(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _scheduler(value: object) -> object:
    return {"kind": value} if isinstance(value, str) else value


class Budget(Section):
    """When the search ends: at the first of these. Trials that run then are ended and go on with a larger budget."""

    trials: int | None = Field(None, ge=1, description="Trials, those of an earlier command counted.")
    core_hours: float | None = Field(None, gt=0, description="Reserved CPUs x hours, over all trials.")
    gpu_hours: float | None = Field(None, gt=0, description="Reserved GPUs x hours, over all trials.")
    wall_hours: float | None = Field(None, gt=0, description="Hours of one command.")


class TuneSection(Section):
    """The search that `raysft tune` does. `raysft train` does not look at it."""

    space: dict[str, Distribution] = Field(
        min_length=1,
        description="Field by its dotted name -> distribution, e.g. optimizer.learning_rate: "
        "{distribution: loguniform, low: 1e-5, high: 1e-2}.",
    )
    searcher: Literal["grid", "random", "tpe", "gp", "cmaes", "nsga2", "qmc"] = Field(
        "tpe", description="What proposes the next trial: Optuna's samplers, or every point of a grid."
    )
    scheduler: Annotated[Scheduler, BeforeValidator(_scheduler, json_schema_input_type=SchedulerKind | Scheduler)] = (
        Field(Scheduler(), description="Which running trials are ended early: a kind, or a section with its numbers.")
    )
    metrics: Annotated[
        Metrics,
        BeforeValidator(
            _listed,
            json_schema_input_type=Metric | Annotated[tuple[Metric, ...], Field(min_length=1)],
        ),
    ] = Field(
        (HELD_OUT_LOSS,),
        min_length=1,
        description="What is searched for: held_out_loss, train_loss, tokens_per_s, peak_bytes, or SET/MEASURE: the "
        "loss, a term or a metric of the objective on held-out rows (held_out/accuracy, held_out/macro_f1) or on a "
        "set of evaluate.sets (dev/loss). Several: the Pareto front.",
    )
    budget: Budget = Budget()
    concurrent: int | None = Field(
        None,
        ge=1,
        description="Trials at a time. Default: as many as the cluster holds workers, or 8 times that many if fused.",
    )
    executor: Literal["auto", "fused", "separate"] = Field(
        "auto",
        description="fused: LoRA trials train together on one frozen base model in one process; separate: each by "
        "itself; auto: fused where it is possible and there are more trials at a time than workers.",
    )
    start: Annotated[tuple[dict[str, Value], ...], Strict(False)] = Field(
        (), description="Points to try first: a list of {field: value}; fields left out are drawn."
    )
    study: str | None = Field(
        None,
        description="Database of the trials, as an SQLAlchemy URL. Default: SQLite in the storage, which must be a "
        "local directory then.",
    )
    warm_start: Annotated[tuple[str, ...], Strict(False)] = Field(
        (),
        description="Names of earlier studies in the same storage or database whose trials the searcher learns from.",
    )

    @property
    def modes(self) -> tuple[Mode, ...]:
        """Which way is better, for each metric."""
        return tuple(mode_of(metric) or "min" for metric in self.metrics)
