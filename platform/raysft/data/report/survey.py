"""What a recipe's training data is like, read once on Ray Data: the numbers behind the data report.

survey_task.py looks at the records, one read task at a time; whole-data rules find the duplicates (whole_data.py);
bias.py compares groups of people.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from raysft.data.formats.conversations import check_source_columns
from raysft.data.on_ray import Item, on_ray
from raysft.data.read.sources import SourceFile, describe_line, expand, plan_reads
from raysft.data.report.bias import ATTRIBUTES, bias_advice, bias_table
from raysft.data.report.survey_facts import (
    COUNTS,
    Facts,
    groups,
    length_facts,
    merge_facts,
    most_first,
    new_facts,
    quality_facts,
)
from raysft.data.report.survey_task import SurveyPlan, look_item
from raysft.data.rules.whole_data import select
from raysft.data.store.shards import shard_path
from raysft.data.text.backend import BackendJson
from raysft.data.text.stops import recipe_template
from raysft.data.text.tokenizer import recipe_tokenizer
from raysft.errors import DataError, UserError
from raysft.recipe.cleaning import WHOLE_DATA, Conflicts, ExactDuplicates, NearDuplicates, Rule
from raysft.recipe.objective_traits import answers_of, categories_of, sample_name
from raysft.recipe.schema import Recipe
from raysft.storage import absolute, join, remove_tree

Progress = Callable[[str, int, int], None]

_COMPARING: tuple[Rule, ...] = (
    ExactDuplicates(rule="exact_duplicates"),
    NearDuplicates(rule="near_duplicates"),
    Conflicts(rule="conflicts"),
)
"""Run on what is kept; where the recipe has the rule, with its parameters."""
_MAX_CLUSTERS = 10
_MAX_LABELS = 50
_MUCH_OVER_LONG = 0.01
_MUCH_REFUSED = 0.05


def survey(
    recipe: Recipe, *, attributes: Sequence[str] = (), progress: Progress = lambda what, done, total: None
) -> dict[str, Any]:
    """The report's numbers, as JSON values. Ray must be initialised. Raises DataError for data without records."""
    data = recipe.data
    check_source_columns(data)
    tokenizer = recipe_tokenizer(recipe)
    files = expand(data.sources, format=data.format, columns=data.columns, purpose="train")
    tasks = plan_reads(files)
    work = join(absolute(recipe.storage), "datasets", recipe.name, f"survey-{uuid.uuid4().hex[:12]}")
    plan = SurveyPlan(
        BackendJson.of(tokenizer),
        recipe_template(recipe, tokenizer),
        data,
        recipe.seed,
        frozenset(name.casefold() for name in attributes or ATTRIBUTES),
        _comparing(data.rules),
        work,
        answers_of(recipe),
        categories_of(recipe),
    )
    items: list[Item] = [
        {"index": index, "file": task.file.index, "start": task.start, "stop": task.stop}
        for index, task in enumerate(tasks)
    ]
    try:
        facts = new_facts()
        found = on_ray(partial(look_item, files=files, plan=plan), items)
        for done, piece in enumerate(found, 1):
            facts = merge_facts((facts, piece))
            progress("survey", done, len(items))
        if not facts["records"]:
            raise DataError(
                "there is no record in data.train",
                got="only blank lines or empty lists",
                expected="records",
                fix="check the files that data.train names",
            )
        _check_attributes(attributes, facts)
        duplicates = _duplicates(recipe, work, len(tasks), files)
        return _describe(recipe, facts, files, duplicates)
    finally:
        remove_tree(work)


def _describe(
    recipe: Recipe, facts: Facts, files: Sequence[SourceFile], duplicates: dict[str, Any]
) -> dict[str, Any]:
    """The facts in the order and words of the report."""
    found = most_first(facts["found"])
    bias = bias_table(facts["attributes"], facts["labels"])
    survey = {
        "recipe": recipe.name,
        "at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "files": len(files),
        "max_tokens": recipe.data.max_tokens,
        "sample": sample_name(recipe),
        "over_long_policy": f"data.over_long: {recipe.data.over_long}",
        **{name: facts[name] for name in COUNTS},
        "formats": most_first(facts["formats"]),
        "turns": sorted(facts["turns"].items(), key=lambda item: int(item[0])),
        "lengths": length_facts(facts),
        "languages": _of_rule("language", found),
        "quality": quality_facts(facts),
        "pii": _of_rule("pii", found),
        "found": [(name, n) for name, n in found if name.split(".")[0] not in ("language", "pii")],
        "findings": most_first(facts["findings"]),
        "actions": {rule.rule: rule.model_dump().get("action") for rule in recipe.data.rules},
        "refused": [
            {
                "reason": reason,
                "count": number,
                "first": [describe_line(place, files) for place in facts["first"][reason]],
            }
            for reason, number in most_first(facts["refused"])
        ],
        "not_read": [
            {"kind": kind, "name": name, "count": counted["count"]}
            for kind in ("unread", "ignored", "guess", "absent")
            for name, counted in sorted(facts["notes"].get(kind, {}).items(), key=lambda item: -item[1]["count"])
        ][:_MAX_LABELS],
        **duplicates,
        "labels": most_first(facts["labels"])[:_MAX_LABELS],
        "groups": groups(facts),
        "bias": bias,
    }
    return {**survey, "advice": [*_advice(survey), *bias_advice(bias)]}


def _advice(survey: dict[str, Any]) -> list[str]:
    """What the numbers suggest, naming the recipe's fields."""
    actions, kept = survey["actions"], max(survey["kept"], 1)
    lines = []
    if survey["pii"] and actions.get("pii") not in ("fix", "drop"):
        lines.append(
            "there is personal data: `data.rules: [{rule: pii}]` masks it, `action: drop` refuses such records"
        )
    for rule in ("exact_duplicates", "near_duplicates"):
        number = survey["duplicates"].get(rule, 0)
        if number and actions.get(rule) != "drop":
            lines.append(
                f"{number:,} {rule.replace('_', ' ')} ({number / kept:.1%}): `{{rule: {rule}}}` keeps the first"
            )
    if survey["duplicates"].get("conflicts"):
        lines.append("some prompts have several different answers: see `{rule: conflicts}`")
    if survey["over_long"] / kept > _MUCH_OVER_LONG:
        lines.append(
            f"{survey['over_long'] / kept:.1%} of the {survey['sample']}s are longer than data.max_tokens "
            f"({survey['max_tokens']:,}): raise it"
            + (", or choose what becomes of them with `data.over_long`" if survey["sample"] == "sample" else "")
        )
    if unread := [line["name"] for line in survey["not_read"] if line["kind"] == "unread"]:
        lines.append(f"nothing reads {', '.join(unread[:5])}: map them in data.columns, or data.ignore_columns")
    if (survey["records"] - survey["kept"]) / survey["records"] > _MUCH_REFUSED:
        lines.append("many records are refused: look at the first examples of each reason before training")
    return lines


def _of_rule(rule: str, found: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    """The kinds that one rule found."""
    return [(name.partition(".")[2], number) for name, number in found if name.startswith(f"{rule}.")]


def _duplicates(recipe: Recipe, work: str, num_shards: int, files: Sequence[SourceFile]) -> dict[str, Any]:
    """How many records each comparing rule found, and the largest clusters."""
    locations = [shard_path(work, index) for index in range(num_shards)]
    selection = select(locations, [], _comparing(recipe.data.rules), out=join(work, "duplicates"))
    clusters = sorted(selection.clusters, key=lambda cluster: -cluster["size"])[:_MAX_CLUSTERS]
    return {
        "duplicates": selection.counts,
        "clusters": [
            {
                "kind": cluster["rule"].replace("_", " "),
                "size": cluster["size"],
                "first": describe_line(cluster["members"][0], files),
            }
            for cluster in clusters
        ],
    }


def _comparing(rules: Sequence[Rule]) -> tuple[Rule, ...]:
    """The comparing rules with the parameters of the recipe's own. Exact duplicates are not counted as near ones."""
    own: dict[str, Rule] = {rule.rule: rule for rule in rules if isinstance(rule, WHOLE_DATA)}
    return tuple(
        own.get(rule.rule, rule).model_copy(
            update={"action": "drop" if rule.rule == "exact_duplicates" else "report"}
        )
        for rule in _COMPARING
    )


def _check_attributes(attributes: Sequence[str], facts: Facts) -> None:
    seen = {name.casefold() for name in facts["attributes"]}
    missing = [name for name in attributes if name.casefold() not in seen]
    if missing:
        raise UserError(
            f"no record has the column {missing[0]!r}",
            got=f"columns beside the text: {', '.join(facts['columns']) or 'none'}",
            expected="a metadata column to compare groups by",
            fix="correct --attribute",
        )
