"""What was measured of a run's model before and after training: made once, kept in the run, told in a line.

A record is {set: what evaluate/evaluation.py gives of it}. Those of versions without sets are of the held-out data.
A task makes it, or it is there already: the training workers have measured it (worker_losses.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from raysft import sealed, storage
from raysft.data.prepare.prepared import Prepared
from raysft.evaluate.scorers import scorer_settings
from raysft.metrics import METRICS
from raysft.metrics.base import Answer
from raysft.metrics.estimate import compare
from raysft.recipe.evaluation_sets import evaluation_sets
from raysft.recipe.measures import HELD_OUT, MEASURES, shown
from raysft.recipe.schema import Recipe
from raysft.run.evaluation_tasks import Task, evaluate_by_tasks

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluated:
    """Whose evaluations."""

    run: str
    recipe: Recipe
    prepared: Prepared
    fingerprints: Mapping[str, str]


def evaluate_once(
    of: Evaluated,
    when: str,
    task: Task,
    *more: str,
    measured: Callable[[], dict[str, Any] | None] = lambda: None,
) -> dict[str, Any] | None:
    """An evaluation of the run, kept in it; None without a set. One that lacks what is asked for by now is made anew.

    measured() is one that needs no model; None: there is none. Then task, with *more, is what tasks do.
    That of `after` says how far the answers changed since `before`.
    """
    stores = of.prepared.eval_stores
    if not stores:
        return None
    evaluation = kept_evaluation(of, when)
    if evaluation is None or not _holds(evaluation, of.recipe):
        evaluation = measured()
        if evaluation is None:
            logger.info("evaluating %s training", when)
            evaluation = evaluate_by_tasks(of.recipe, task, stores, *more)
            settings = scorer_settings(of.recipe)
            for record in evaluation.values():
                record["scorers"] = {name: one for name, one in settings.items() if name in record["metrics"]}
        answers = take_answers(evaluation)
        if when == "after":
            add_changes(evaluation, read_answers(of.run, "before", of.fingerprints), answers)
        write_answers(of.run, when, answers, of.fingerprints)
        keep_evaluation(of, when, evaluation)
    logger.info("%-12s %s", when, evaluation_line(evaluation))
    return evaluation


def kept_evaluation(of: Evaluated, when: str) -> dict[str, Any] | None:
    """A kept evaluation of this run by set; None: there is none, or one of its sets was asked otherwise than the
    recipe asks by now. Earlier versions kept no word of how they asked: theirs count."""
    found, asked = read_evaluation(of.run, when, of.fingerprints), _asked(of)
    if found is None or any(found.get(name, {}).get("asked", one) != one for name, one in asked.items()):
        return None
    return found if asked.keys() <= found.keys() else None


def keep_evaluation(of: Evaluated, when: str, evaluation: dict[str, dict[str, Any]]) -> None:
    """Keep a new evaluation in the run, with how each set was asked."""
    for name, asked in _asked(of).items():
        if name in evaluation:
            evaluation[name] = {**evaluation[name], "asked": asked}
    write_evaluation(of.run, when, evaluation, of.fingerprints)


def _asked(of: Evaluated) -> dict[str, dict[str, Any]]:
    """{set: all that its numbers depend on besides the model, and the scorers, which are kept apart}: its data, how
    many of its rows and prompts, how long an answer may be. Answers are greedy."""
    plans, longest = evaluation_sets(of.recipe), of.recipe.evaluate.max_new_tokens
    return {
        name: {
            "data": store.manifest.get("fingerprint", ""),
            **({"max_rows": plans[name].max_rows} if "loss" in plans[name].metrics else {}),
            **({"prompts": plans[name].prompts, "max_new_tokens": longest} if plans[name].prompts else {}),
        }
        for name, store in of.prepared.evaluated.items()
    }


def _holds(evaluation: Mapping[str, Any], recipe: Recipe) -> bool:
    """Are all sets and metrics of the recipe in it, scored as it says?"""
    plans, settings = evaluation_sets(recipe), scorer_settings(recipe)
    return all(
        name in evaluation
        and {*plan.metrics} <= {*evaluation[name]["metrics"]}
        and all(
            evaluation[name].get("scorers", {}).get(one) == settings[one] for one in plan.metrics if one in settings
        )
        for name, plan in plans.items()
    )


def evaluation_line(evaluation: Mapping[str, Any]) -> str:
    """`held-out loss 1.2345, perplexity 3.4367, exact match of greedy answers 96.0% (92.3% to 98.0%) of 200 prompts`,
    then `; dev: loss 1.3456, ...`, set by set; of pairs what was counted, too."""
    parts = []
    for name, record in evaluation.items():
        told = []
        for measure, estimate in record["metrics"].items():
            is_loss, of_answers = measure == "loss", MEASURES[measure].wants == "answers"
            before = " of the preferred answers" if is_loss and record.get("of_pairs") else ""
            what = "texts" if "classes" in record else "prompts"
            after = f" of {record['num_prompts']} {what}" if of_answers else ""
            told.append(f"{MEASURES[measure].title}{before} {_value(measure, estimate)}{after}")
        parts.append(("held-out " if name == HELD_OUT else f"{name}: ") + ", ".join(told))
    return "; ".join(parts)


def _value(measure: str, estimate: Mapping[str, Any]) -> str:
    """Answers are few: their interval is told, too; that of a loss stands in the record and the report."""
    return shown(measure, estimate if MEASURES[measure].wants == "answers" else {"value": estimate["value"]})


def read_evaluation(run: str, when: str, fingerprints: Mapping[str, str]) -> dict[str, Any] | None:
    """A kept evaluation of this run by set, `before` or `after`; None: not made yet, lost, or another run's."""
    location = storage.join(run, "evaluation", f"{when}.json")
    record = sealed.read(location, {})
    if record is not None and record.pop("mathematics", None) not in (None, fingerprints["mathematics"]):
        logger.warning("%s is passed over: it is of another run", location)
        return None
    return by_set(record)


def write_evaluation(run: str, when: str, evaluation: Mapping[str, Any], fingerprints: Mapping[str, str]) -> None:
    """Keep an evaluation in the run."""
    location = storage.join(run, "evaluation", f"{when}.json")
    sealed.write(location, {"sets": dict(evaluation), "mathematics": fingerprints["mathematics"]})


Answers = Mapping[str, list[Answer]]
"""{set: all its prompts with the model's answers}."""


def take_answers(evaluation: Mapping[str, dict[str, Any]]) -> dict[str, list[Answer]]:
    """All answers of a new evaluation, taken out of its record, which keeps the first ones as samples."""
    return {name: [Answer.of(fields) for fields in record.pop("answers", ())] for name, record in evaluation.items()}


def add_changes(evaluation: Mapping[str, dict[str, Any]], before: Answers, after: Answers) -> None:
    """Put `changes` {metric: Change} into the record of each set whose prompts were answered before, too."""
    for name, record in evaluation.items():
        found = {
            metric: compare(METRICS[metric], before.get(name, []), after[name])
            for metric in record["metrics"]
            if metric in METRICS
        }
        record["changes"] = {metric: asdict(change) for metric, change in found.items() if change is not None}


def write_answers(run: str, when: str, answers: Answers, fingerprints: Mapping[str, str]) -> None:
    """Keep all answers in the run: evaluation/before-answers.json, after-answers.json."""
    told = {name: [one.as_json() for one in found] for name, found in answers.items()}
    sealed.write(_answers_location(run, when), {"answers": told, "mathematics": fingerprints["mathematics"]})


def read_answers(run: str, when: str, fingerprints: Mapping[str, str]) -> Answers:
    """Kept answers by set; none where there are none of this run, or they are damaged, which is told."""
    record = sealed.read(_answers_location(run, when), {"answers": dict, "mathematics": str})
    if record is None or record["mathematics"] != fingerprints["mathematics"]:
        return {}
    return {name: [Answer.of(fields) for fields in found] for name, found in record["answers"].items()}


def _answers_location(run: str, when: str) -> str:
    return storage.join(run, "evaluation", f"{when}-answers.json")


def by_set(record: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """{set: what was measured} of a kept record; None: of no use. Earlier versions knew the held-out data alone."""
    if record is None:
        return None
    sets = record["sets"] if "sets" in record else {HELD_OUT: _first_form(record)}
    problems = (
        [sealed.problem_of(one, _EVALUATION) for one in sets.values()] if isinstance(sets, dict) else ["no sets"]
    )
    if any(problems):
        sealed.passed_over("an evaluation of the run", str(next(filter(None, problems))))
        return None
    return dict(sets)


_EVALUATION: sealed.Shape = {"metrics": dict, "num_prompts": int}


def _first_form(record: Mapping[str, Any]) -> dict[str, Any]:
    """What stood beside each other before there were sets."""
    counts = {"exact_match": record.get("num_prompts", 0)}
    metrics = {
        name: {"value": record[name], "count": counts.get(name, record.get("target_tokens", 0))}
        for name in ("loss", "perplexity", "exact_match")
        if isinstance(record.get(name), int | float)
    }
    kept = {name: record[name] for name in ("num_prompts", "samples", "of_pairs") if name in record}
    return {"metrics": metrics, **kept}
