"""Every rule over the fields of one recipe that say which data are read, in which order, and how: pure."""

from __future__ import annotations

from raysft.errors import RecipeError, refuse_first
from raysft.recipe.cleaning import WHOLE_DATA
from raysft.recipe.evaluation_sets import evaluation_sets, has_held_out
from raysft.recipe.objective_traits import answers_of, reference_columns
from raysft.recipe.schema import Recipe
from raysft.recipe.sections.data import DataSection


def check_data(recipe: Recipe) -> None:
    """Raises RecipeError."""
    _check_held_out(recipe)
    _check_columns(recipe)
    _check_rules(recipe)
    _check_mixture(recipe)
    _check_stream(recipe)
    _check_answers(recipe)


def _check_held_out(recipe: Recipe) -> None:
    """Given once, and there where something is measured of it."""
    data = recipe.data
    if data.eval and data.eval_fraction:
        raise RecipeError(
            "held-out data is given twice",
            got=f"data.eval and data.eval_fraction = {data.eval_fraction}",
            expected="one of them",
            fix="remove data.eval_fraction to use the files",
        )
    wants_all, wants_own = recipe.evaluate.every_steps is not None, recipe.evaluate.generate_prompts > 0
    if (wants_own and not has_held_out(recipe)) or (wants_all and not evaluation_sets(recipe)):
        raise RecipeError(
            "evaluation is asked for, but there is no held-out data",
            got="evaluate.every_steps or evaluate.generate_prompts set",
            expected="data.eval or data.eval_fraction",
            fix="set data.eval_fraction: 0.02, or name files in data.eval",
        )


def _check_columns(recipe: Recipe) -> None:
    """A column is read or left out."""
    data = recipe.data
    mapped = {
        column for columns in (data.columns, *(s.columns or {} for s in data.sources)) for column in columns.values()
    }
    if both := sorted(mapped & set(data.ignore_columns)):
        raise RecipeError(
            "a column is mapped and left out at once",
            got=f"{', '.join(both)} in data.columns and in data.ignore_columns",
            expected="one of them",
            fix="remove it from data.ignore_columns to read it",
        )


def _check_rules(recipe: Recipe) -> None:
    """A sample has one key of each kind, so a rule that compares them can stand once."""
    names = [rule.rule for rule in recipe.data.rules if isinstance(rule, WHOLE_DATA)]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise RecipeError(
            "a rule that compares records stands twice in data.rules",
            got=", ".join(repeated),
            expected="each of them once",
            fix="keep one; `contamination` takes several files",
        )


def _check_mixture(recipe: Recipe) -> None:
    """Shares by weight, by temperature and by epochs exclude each other; an order needs a plan that keeps it."""
    sources, mixture = recipe.data.sources, recipe.data.mixture
    weighted = [source for source in sources if source.weight is not None]
    if 0 < len(weighted) < len(sources):
        raise RecipeError(
            "only some sources have a weight",
            got=f"{len(weighted)} of the {len(sources)} entries of data.train with a weight",
            expected="a weight for each source, or for none",
            fix="give every entry of data.train a weight",
        )
    given = {
        "a weight of its sources": bool(weighted),
        "data.mixture.temperature": mixture.temperature is not None,
        "epochs of its sources": any(source.epochs != 1 for source in sources),
    }
    if sum(given.values()) > 1:
        raise RecipeError(
            "the size of each source is given in more than one way",
            got=" and ".join(name for name, is_given in given.items() if is_given),
            expected="weights, a temperature or epochs",
            fix="keep one of them",
        )
    if mixture.descending and mixture.curriculum is None:
        raise RecipeError(
            "descending is the direction of a curriculum, and there is none",
            got="data.mixture.descending = true",
            expected="data.mixture.curriculum: length or a metadata column",
            fix="set data.mixture.curriculum, or remove descending",
        )
    if mixture.curriculum is not None and recipe.data.order != "windowed":
        raise RecipeError(
            "a shuffle of all rows would undo the curriculum",
            got=f"data.mixture.curriculum = {mixture.curriculum!r}, data.order = {recipe.data.order}",
            expected="data.order: windowed",
            fix="set data.order: windowed",
        )


def _check_stream(recipe: Recipe) -> None:
    """A stream knows neither its length nor the records to come."""
    if recipe.data.mode != "stream":
        return
    if unknown := _need_whole_data(recipe.data):
        raise RecipeError(
            "a stream cannot do what needs the whole data",
            got=", ".join(unknown),
            expected="rules that look at one record at a time, each source once and in order",
            fix="remove them, or set data.mode: prepared",
        )
    for wrong, got, expected in (
        (recipe.train.max_steps is None, "train.max_steps is not set", "train.max_steps"),
        (recipe.data.order != "windowed", f"data.order = {recipe.data.order}", "data.order: windowed"),
        (
            recipe.data.eval_fraction > 0,
            f"data.eval_fraction = {recipe.data.eval_fraction}",
            "held-out files in data.eval",
        ),
    ):
        if wrong:
            raise RecipeError(
                "data.mode: stream cannot go with these fields",
                got=got,
                expected=expected,
                fix=f"give {expected}, or set data.mode: prepared",
            )


def _check_answers(recipe: Recipe) -> None:
    """What pairs of answers, and columns of the untrained model, cannot go with."""
    data, kind = recipe.data, recipe.objective.kind
    answers = answers_of(recipe)
    compared, labelled, matched = answers in ("pair", "ranked", "judged"), answers == "labelled", answers == "matched"
    refuse_first(
        RecipeError,
        (
            compared and data.over_long != "drop",
            "cut answers cannot be compared, or judged: their prompts would be others",
            f"objective: {kind}, data.over_long = {data.over_long}",
            "data.over_long: drop",
            "set data.over_long: drop, and data.max_tokens so that a pair of answers with their prompts fits",
        ),
        (
            (labelled or matched) and data.over_long == "split",
            "a text with a label, or one that others match, is one sample",
            f"objective: {kind}, data.over_long = split",
            "data.over_long: drop, or truncate, which keeps the beginning",
            "set data.over_long: truncate",
        ),
        (
            data.mode == "stream" and answers != "one",
            "answers that are compared, or judged, and texts with labels are not streamed, nor texts that match",
            f"data.mode: stream, objective: {kind}",
            "data.mode: prepared",
            "set data.mode: prepared",
        ),
        (
            data.mode == "stream" and bool(reference_columns(recipe)),
            "what the untrained model says of the data is written before training, beside a finished store",
            f"data.mode: stream, objective: {kind} with {', '.join(c.name for c in reference_columns(recipe))}",
            "data.mode: prepared",
            "set data.mode: prepared",
        ),
    )


def _need_whole_data(data: DataSection) -> list[str]:
    """What the recipe asks for, by name, that only the whole data can answer."""
    mixture = data.mixture
    wanted = {
        "weight (data.train)": any(source.weight is not None for source in data.sources),
        "epochs (data.train)": any(source.epochs != 1 for source in data.sources),
        "data.mixture.temperature": mixture.temperature is not None,
        "data.mixture.balance_by": mixture.balance_by is not None,
        "data.mixture.curriculum": mixture.curriculum is not None,
    }
    rules = [f"rule {rule.rule}" for rule in data.rules if isinstance(rule, WHOLE_DATA)]
    return [name for name, is_wanted in wanted.items() if is_wanted] + rules
