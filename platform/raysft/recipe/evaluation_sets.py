"""The sets that a recipe is measured on, the full names of what they give, and the rules over them. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Container, Iterable
from dataclasses import dataclass
from importlib.util import find_spec

from raysft.errors import RecipeError
from raysft.metrics.base import Mode
from raysft.recipe.measures import HELD_OUT, MEASURES, OF_ANSWERS
from raysft.recipe.objective_traits import answers_of, judge_of
from raysft.recipe.schema import Recipe
from raysft.recipe.sections.data import DataSection, SourceSection
from raysft.recipe.sections.evaluate import EvaluationSet
from raysft.recipe.sections.objective import ObjectiveSection
from raysft.recipe.traits import virtual_tokens

ANSWERS = 32
"""Prompts that a task answers at a time."""

TESTED = "passes_tests"
WITHOUT_REFERENCE = ("distinct_1", "distinct_2", "repetition", "length", "refusals")
"""Metrics that look at answers alone."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class SetPlan:
    """What is done with one set."""

    metrics: tuple[str, ...]
    """`loss`, and metrics of answers."""
    prompts: int
    max_rows: int


def has_held_out(recipe: Recipe) -> bool:
    """Does a part of the recipe's own data stay out of training?"""
    return bool(recipe.data.eval or recipe.data.eval_fraction)


def evaluation_sets(recipe: Recipe) -> dict[str, SetPlan]:
    """{set: what is done with it}: the held-out data, where there are any, then those that are named."""
    section, found = recipe.evaluate, {}
    if has_held_out(recipe):
        answers = ("exact_match",) if section.generate_prompts else ()
        found[HELD_OUT] = SetPlan(("loss", *answers), section.generate_prompts, section.max_rows)
    for name, one in section.sets.items():
        found[name] = SetPlan(one.metrics, one.prompts, one.max_rows or section.max_rows)
    return found


def set_sources(recipe: Recipe) -> dict[str, SourceSection]:
    """{set: its files} of the sets with data of their own."""
    return {
        name: SourceSection(path=one.data, name="eval", format=one.format, columns=one.columns)
        for name, one in recipe.evaluate.sets.items()
        if one.data
    }


def measured_by(objective: ObjectiveSection, varied: Container[str] = ()) -> dict[str, Mode]:
    """{measure: which way is better} of rows, which an objective has with these fields. varied: fields that trials
    differ in, so that a term may be there or not."""
    own = {
        name: mode
        for name, mode in objective.measures.items()
        if (field := objective.needs.get(name)) is None or dict(objective)[field] or f"objective.{field}" in varied
    }
    return {"loss": "min", **own}


def measured_in_training(recipe: Recipe, varied: Container[str] = ()) -> dict[str, Mode]:
    """{full name: which way is better} of what each evaluation in training gives. varied: see measured_by."""
    return {
        f"{name}/{measure}": mode
        for name, plan in evaluation_sets(recipe).items()
        if "loss" in plan.metrics
        for measure, mode in measured_by(recipe.objective, varied).items()
    }


def evaluation_tasks(recipe: Recipe, workers: int = 1) -> int:
    """How many tasks, with the resources of so many workers each, share what is measured before or after training.

    One, or one for each ANSWERS prompts where the run has the workers: each has to load the model.
    """
    prompts = sum(plan.prompts for plan in evaluation_sets(recipe).values())
    return max(1, min(recipe.cluster.workers // workers, math.ceil(prompts / ANSWERS)))


def measured_by_workers(recipe: Recipe) -> bool:
    """Do the training workers measure all that is told of a model before and after its training (decision 040)?

    They do at their first and their last step, each with its part of the model, where losses are all that is asked,
    the objective tells the likelihood of the targets (a term or a metric), and a model begins as its base, which
    virtual tokens do not leave as it is. Everything else is measured by a task that holds the model.
    """
    only_losses = all(plan.metrics == ("loss",) for plan in evaluation_sets(recipe).values())
    return tells_likelihood(recipe) and only_losses and not virtual_tokens(recipe)


def tells_likelihood(recipe: Recipe) -> bool:
    """Does the objective tell the likelihood of the targets of held-out rows, as a term or a metric?"""
    return answers_of(recipe) == "one" and "nll" in measured_by(recipe.objective)


def best_by(recipe: Recipe) -> str | None:
    """Full name of what the best commit is known by; None: none is kept for being the best."""
    keep = recipe.checkpoint
    return keep.keep_best_by or (f"{HELD_OUT}/{judge_of(recipe)}" if keep.keep_best else None)


def misjudges(recipe: Recipe, measure: str) -> bool:
    """Is a measure (a full name, or train_loss) no sign of a better model under the recipe's objective?"""
    objective = recipe.objective
    judge, lost = judge_of(recipe), {"loss", "train_loss", objective.kind}
    return judge != "loss" and measure.rpartition("/")[2] in lost - {judge}


def ignored(recipe: Recipe) -> list[str]:
    """What the recipe asks for and does not get, in lines. Refusing it would stop runs that have gone on without."""
    by = best_by(recipe)
    if by is None or by in measured_in_training(recipe):
        return []
    return [f"best commit  none is kept for being the best: {by} is not measured, nothing is held out"]


def check_packages(plans: Iterable[SetPlan]) -> None:
    """Is here what their metrics are computed with? Raises RecipeError."""
    asked = dict.fromkeys(metric for plan in plans for metric in plan.metrics)
    for metric in asked:
        for package in MEASURES[metric].packages:
            if find_spec(package) is None:
                raise RecipeError(
                    f"the metric {metric} is computed with a package that is not installed",
                    got=f"no module {package}",
                    expected="the packages of the extra `metrics`, also where tasks of the cluster run",
                    fix="pip install 'raysft[metrics]', or leave the metric out of evaluate.sets",
                )


def check_sets(recipe: Recipe) -> None:
    """Raises RecipeError."""
    _check_trained(recipe.data)
    for name, one in recipe.evaluate.sets.items():
        where = f"evaluate.sets.{name}"
        if not _NAME.fullmatch(name):
            raise RecipeError(
                "a set of evaluate.sets needs another name",
                got=repr(name),
                expected="a letter, then letters, digits, _ or -",
                fix="rename it",
            )
        if name == HELD_OUT:
            _check_held_out(recipe)
        elif not one.data:
            raise RecipeError(
                "a set of evaluate.sets has no data",
                got=f"{where} without data",
                expected=f"files; only the set {HELD_OUT} has those of data.eval or data.eval_fraction",
                fix=f"set {where}.data: FILE, or call the set {HELD_OUT}",
            )
        asked = [metric for metric in one.metrics if metric in OF_ANSWERS]
        if asked and not one.prompts:
            raise RecipeError(
                "a metric of answers needs answers",
                got=f"{where}.metrics: {', '.join(asked)}, and prompts: 0",
                expected="a number of prompts that are answered",
                fix=f"set {where}.prompts: 200",
            )
        if one.prompts and not asked:
            raise RecipeError(
                "prompts would be answered, and nothing measured of the answers",
                got=f"{where}.prompts: {one.prompts}, metrics: {', '.join(one.metrics)}",
                expected=f"a metric of answers: {', '.join(OF_ANSWERS)}",
                fix=f"set {where}.metrics: [{', '.join((*one.metrics, OF_ANSWERS[0]))}], or prompts: 0",
            )
        if len(set(one.metrics)) < len(one.metrics):
            raise RecipeError(
                "a metric stands twice",
                got=f"{where}.metrics: {', '.join(one.metrics)}",
                expected="different metrics",
                fix="remove the second one",
            )
        _check_tested(where, one)
    _check_best(recipe)


def _check_trained(data: DataSection) -> None:
    """Tests are no answers to train on: their format is one of sets alone."""
    formats = {"data.format": data.format} | {
        f"data.train[{at}].format": s.format for at, s in enumerate(data.sources)
    }
    for where, format in formats.items():
        if format == "tested":
            raise RecipeError(
                "tests would be trained on as answers",
                got=f"{where}: tested",
                expected="this format in evaluate.sets alone",
                fix="set evaluate.sets.NAME.format: tested, and the format of the solutions here",
            )


def _check_tested(where: str, one: EvaluationSet) -> None:
    """The reference of a set that is scored by tests is its tests, which nothing else can be compared with."""
    others = [name for name in one.metrics if name not in (TESTED, *WITHOUT_REFERENCE)]
    if TESTED in one.metrics and others:
        raise RecipeError(
            f"the references of a set with {TESTED} are tests, which answers are not like",
            got=f"{where}.metrics: {', '.join(one.metrics)}",
            expected=f"{TESTED}, and of the others {', '.join(WITHOUT_REFERENCE)}",
            fix=f"leave out {', '.join(others)}, or name them in a set of the same problems with solutions",
        )
    if TESTED in one.metrics and not one.data:
        raise RecipeError(
            f"{TESTED} needs a set of its own, whose references are tests",
            got=f"{where}.metrics: {', '.join(one.metrics)}; its references are the answers that are trained on",
            expected="a set with data",
            fix="set evaluate.sets.NAME: {data: FILE, format: tested, metrics: passes_tests, prompts: 100}",
        )


def _check_held_out(recipe: Recipe) -> None:
    """The set that the data section makes."""
    where = f"evaluate.sets.{HELD_OUT}"
    for wrong, got, expected, fix in (
        (
            bool(recipe.evaluate.sets[HELD_OUT].data),
            f"{where}.data",
            "data.eval or data.eval_fraction",
            "name the files in data.eval, or give the set another name",
        ),
        (
            not has_held_out(recipe),
            f"{where}, and neither data.eval nor data.eval_fraction",
            "held-out data",
            "set data.eval_fraction: 0.02, or name files in data.eval",
        ),
        (
            recipe.evaluate.generate_prompts > 0,
            f"{where} and evaluate.generate_prompts, which is short for it",
            "one of them",
            f"set {where}.prompts and remove evaluate.generate_prompts",
        ),
    ):
        if wrong:
            raise RecipeError(
                f"the set {HELD_OUT} is the data that is held out from training", got=got, expected=expected, fix=fix
            )


def no_judge(recipe: Recipe, got: str, field: str) -> RecipeError:
    """The error for a measure that misjudges()."""
    judge = judge_of(recipe)
    return RecipeError(
        f"the loss of {recipe.objective.kind} does not tell the better of two models",
        got=got,
        expected=f"{HELD_OUT}/{judge}, or another measure of held-out rows",
        fix=f"set {field}: {HELD_OUT}/{judge}",
    )


def _check_best(recipe: Recipe) -> None:
    by, known = best_by(recipe), measured_in_training(recipe)
    if by is not None and misjudges(recipe, by):
        raise no_judge(recipe, f"checkpoint.keep_best_by: {by}", "checkpoint.keep_best_by")
    is_told = recipe.checkpoint.keep_best_by is not None or bool(recipe.evaluate.sets)
    if by is None or by in known or not is_told:  # without any set keep_best has always kept nothing
        return
    field = "keep_best_by" if recipe.checkpoint.keep_best_by else "keep_best, which goes by"
    raise RecipeError(
        "the best commit cannot be known by this measure",
        got=f"checkpoint.{field}: {by}",
        expected=f"one of {', '.join(known)}" if known else "a measure of rows; no set of this recipe asks for loss",
        fix=f"set checkpoint.keep_best_by: {next(iter(known))}" if known else "set data.eval_fraction: 0.02",
    )
