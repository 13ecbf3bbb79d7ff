"""Every rule over the fields of `tune:`, pure. What also needs the recipe's own fields is in search/space.py."""

from __future__ import annotations

from dataclasses import dataclass

from raysft.errors import RecipeError, StorageError
from raysft.recipe.evaluation_sets import measured_in_training, misjudges, no_judge
from raysft.recipe.schema import Recipe
from raysft.recipe.tune import COSTS, Choice, Distribution, Int, LogUniform, TuneSection, Uniform, mode_of
from raysft.recipe.tune_executor import check_executor


@dataclass(frozen=True)
class Ability:
    """What a searcher can hold."""

    conditions: bool
    """Fields that exist only in some trials."""
    several_metrics: bool
    choices: bool
    least_fields: int = 1
    learns_from_stopped: bool = True
    """Also from trials that a scheduler has ended."""


ABILITIES = {
    "grid": Ability(conditions=True, several_metrics=True, choices=True),
    "random": Ability(conditions=True, several_metrics=True, choices=True),
    "tpe": Ability(conditions=True, several_metrics=True, choices=True),
    "gp": Ability(conditions=False, several_metrics=True, choices=True, learns_from_stopped=False),
    "cmaes": Ability(conditions=False, several_metrics=False, choices=False, least_fields=2),
    "nsga2": Ability(conditions=True, several_metrics=True, choices=True, learns_from_stopped=False),
    "qmc": Ability(conditions=False, several_metrics=True, choices=False),
}

PBT_FIELDS = ("optimizer.", "method.dropout", "method.alpha")
"""Fields that may change under weights that were trained with other values: no shape depends on them."""


def check_tune(recipe: Recipe) -> TuneSection:
    """The section, when a search by it can begin. Raises RecipeError."""
    tune = recipe.tune
    if tune is None:
        raise RecipeError(
            "the recipe does not say what to search",
            got="no `tune:` section",
            expected="tune.space with at least one field",
            fix="add `tune:`; jobs/recipes/tune.yaml is an example",
        )
    for name, distribution in tune.space.items():
        _check_distribution(f"tune.space.{name}", distribution)
    _check_metrics(recipe, tune)
    _check_searcher(tune)
    _check_scheduler(recipe, tune)
    _check_budget(tune)
    check_executor(recipe, tune)
    return tune


def check_place(recipe: Recipe, tune: TuneSection) -> None:
    """Raises StorageError where the trials' database would lie in object storage."""
    if tune.study is None and "://" in recipe.storage:
        raise StorageError(
            "a study cannot lie in this storage",
            got=f"storage = {recipe.storage!r} and no tune.study",
            expected="a local directory, or a database",
            fix="set tune.study: postgresql://USER@HOST/NAME",
        )


def tune_advice(tune: TuneSection) -> list[str]:
    """What is allowed and unwise."""
    return [*_blind_advice(tune), *_searcher_advice(tune)]


def _blind_advice(tune: TuneSection) -> list[str]:
    """A loss is no judge between trials whose losses are other sums."""
    moved = [name for name in tune.space if name.startswith("objective.")]
    by = [metric for metric in tune.metrics if metric.rpartition("/")[2] in ("loss", "held_out_loss", "train_loss")]
    if not moved or not by:
        return []
    return [
        f"{', '.join(moved)} changes what the loss is, by which the trials are compared ({', '.join(by)}): set "
        "tune.metrics to a term or metric that means the same in all of them, as held_out/nll or held_out/accuracy"
    ]


def _searcher_advice(tune: TuneSection) -> list[str]:
    if ABILITIES[tune.searcher].learns_from_stopped or tune.scheduler.kind in ("none", "pbt"):
        return []
    return [
        f"{tune.searcher} learns from finished trials only, and {tune.scheduler.kind} lets few of them finish: set "
        "tune.searcher: tpe, which learns from all, or tune.scheduler: none"
    ]


def advice_at_a_time(tune: TuneSection, concurrent: int) -> list[str]:
    """What is unwise about so many trials at a time: a searcher learns from those that have ended."""
    trials = tune.budget.trials
    if tune.searcher in ("grid", "random", "qmc") or trials is None or 2 * concurrent <= trials:
        return []
    first = min(concurrent, trials)
    return [
        f"{tune.searcher} proposes {first} of the {trials} trials before any has ended, and learns nothing for them: "
        f"set tune.concurrent to at most {max(1, trials // 4)}, or a larger tune.budget.trials"
    ]


def _check_distribution(name: str, distribution: Distribution) -> None:
    if isinstance(distribution, Choice):
        if any(value in distribution.values[:i] for i, value in enumerate(distribution.values)):
            raise RecipeError(
                f"{name} has a value twice",
                got=repr(list(distribution.values)),
                expected="different values",
                fix="remove the second one",
            )
        return
    if not distribution.low < distribution.high:
        raise RecipeError(
            f"{name} holds no range",
            got=f"low = {distribution.low:g}, high = {distribution.high:g}",
            expected="low < high",
            fix="exchange them, or set the field in the recipe instead of searching it",
        )
    if isinstance(distribution, Int) and distribution.log and (distribution.step > 1 or distribution.low < 1):
        raise RecipeError(
            f"{name} cannot be logarithmic",
            got=f"low = {distribution.low}, step = {distribution.step}",
            expected="low >= 1 and step 1 with log: true",
            fix="remove log, or give the values as a choice",
        )


def _check_searcher(tune: TuneSection) -> None:
    able = ABILITIES[tune.searcher]
    conditional = [name for name, distribution in tune.space.items() if set(distribution.when) & tune.space.keys()]
    choices = [name for name, distribution in tune.space.items() if isinstance(distribution, Choice)]
    for lacks, got, expected in (
        (conditional and not able.conditions, f"a `when` at {', '.join(conditional)}", "a space without conditions"),
        (len(tune.metrics) > 1 and not able.several_metrics, f"{', '.join(tune.metrics)}", "one metric"),
        (choices and not able.choices, f"a choice at {', '.join(choices)}", "numbers only"),
        (len(tune.space) < able.least_fields, f"{len(tune.space)} field", f"at least {able.least_fields} fields"),
    ):
        if lacks:
            raise RecipeError(
                f"the searcher {tune.searcher} cannot hold this search",
                got=got,
                expected=expected,
                fix="set tune.searcher: tpe (it holds all of it), or change that",
            )
    endless = [
        name
        for name, distribution in tune.space.items()
        if isinstance(distribution, Uniform | LogUniform) and distribution.points is None
    ]
    if tune.searcher == "grid" and endless:
        raise RecipeError(
            "a grid needs a number of points",
            got=f"none at {', '.join(endless)}",
            expected="points: how many values to try",
            fix=f"set tune.space.{endless[0]}.points, or another tune.searcher",
        )


def _check_scheduler(recipe: Recipe, tune: TuneSection) -> None:
    kind = tune.scheduler.kind
    if kind == "none":
        return
    if len(tune.metrics) > 1:
        raise RecipeError(
            "a scheduler judges by one metric",
            got=f"tune.scheduler: {kind}, metrics {', '.join(tune.metrics)}",
            expected="one metric, or scheduler: none",
            fix="set tune.scheduler: none",
        )
    if is_evaluated(tune.metrics[0]) and recipe.evaluate.every_steps is None:
        raise RecipeError(
            "trials would report nothing before their end",
            got=f"tune.scheduler: {kind}, evaluate.every_steps not set",
            expected="a held-out loss every so many steps",
            fix="set evaluate.every_steps, or tune.scheduler: none",
        )
    fixed = [name for name in tune.space if not name.startswith(PBT_FIELDS)]
    if kind == "pbt" and fixed:
        raise RecipeError(
            "population-based training cannot change these fields under way",
            got=", ".join(fixed),
            expected="optimizer.* and method.dropout, method.alpha",
            fix="set another tune.scheduler, or take them out of tune.space",
        )
    if kind == "pbt" and (tune.budget.trials or 0) < 2:
        raise RecipeError(
            "a population needs its size",
            got=f"tune.budget.trials = {tune.budget.trials}",
            expected="at least 2 trials: they are the population",
            fix="set tune.budget.trials: 8",
        )


def _check_budget(tune: TuneSection) -> None:
    if tune.searcher != "grid" and all(limit is None for limit in tune.budget.model_dump().values()):
        raise RecipeError(
            "the search would never end",
            got="no limit in tune.budget",
            expected="trials, core_hours, gpu_hours or wall_hours",
            fix="set tune.budget: {trials: 16}",
        )


def is_evaluated(metric: str) -> bool:
    """Is it measured by evaluations in training?"""
    return "/" in metric


def _check_metrics(recipe: Recipe, tune: TuneSection) -> None:
    if len(set(tune.metrics)) < len(tune.metrics):
        raise RecipeError(
            "tune.metrics names one twice",
            got=", ".join(tune.metrics),
            expected="different metrics",
            fix="remove the second one",
        )
    if blind := [metric for metric in tune.metrics if misjudges(recipe, metric)]:
        raise no_judge(recipe, f"tune.metrics: {blind[0]}", "tune.metrics")
    evaluated = [metric for metric in tune.metrics if is_evaluated(metric)]
    measured = measured_in_training(recipe, tune.space)
    if evaluated and not measured:
        raise RecipeError(
            "trials would never report the metric",
            got=f"tune.metrics: {evaluated[0]}, and no held-out data",
            expected="data.eval, data.eval_fraction, or a set in evaluate.sets",
            fix="set data.eval_fraction: 0.02, or search for train_loss",
        )
    wrong = [
        metric
        for metric in tune.metrics
        if (metric not in measured if is_evaluated(metric) else mode_of(metric) is None)
    ]
    if wrong:
        raise RecipeError(
            "trials would never report the metric",
            got=f"tune.metrics: {wrong[0]}, objective.kind: {recipe.objective.kind}",
            expected=", ".join(dict.fromkeys((*COSTS, *measured))),
            fix="name one of these",
        )
    if recipe.tune and recipe.tune.budget.gpu_hours and not recipe.cluster.gpus_per_worker:
        raise RecipeError(
            "trials without a GPU spend no GPU-hours",
            got=f"tune.budget.gpu_hours = {recipe.tune.budget.gpu_hours:g}, cluster.gpus_per_worker = 0",
            expected="core_hours",
            fix="set tune.budget.core_hours instead",
        )
