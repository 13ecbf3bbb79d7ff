"""A search space over a recipe's fields: which of them a trial has, and the recipe that follows. Pure.

A point is {dotted field: value}. Fields whose `when` does not hold are absent from it.
"""

from __future__ import annotations

import copy
import difflib
import math
from collections.abc import Iterator, Mapping
from typing import Any

from raysft.errors import RecipeError
from raysft.recipe.change import change
from raysft.recipe.kinds import kinds_with
from raysft.recipe.schema import Recipe
from raysft.recipe.tune import Choice, Condition, Distribution, Int, LogUniform, TuneSection
from raysft.recipe.tune_checks import check_tune

Point = dict[str, Any]
Space = dict[str, Distribution]

FIXED = ("name", "storage", "tune", "evaluate", "data.eval", "data.eval_fraction")
"""Fields without which trials could not be told apart or compared."""


def apply(recipe: Recipe, name: str, point: Mapping[str, Any]) -> Recipe:
    """The recipe of one trial: this name, these fields, no search. Raises RecipeError."""
    return change(recipe, {**copy.deepcopy(dict(point)), "name": name, "tune": None})


def ordered(space: Space) -> Space:
    """By name, those that others depend on first: the order in a file means nothing. RecipeError for a circle."""
    left, done = dict(space), Space()
    while left:
        free = sorted(name for name, distribution in left.items() if not set(distribution.when) & left.keys())
        if not free:
            raise RecipeError(
                "conditions of tune.space go in a circle",
                got=", ".join(left),
                expected="a field that depends on no other of them",
                fix="remove one `when`",
            )
        done |= {name: left.pop(name) for name in free}
    return done


def holds(when: Condition, point: Mapping[str, Any], base: Mapping[str, Any]) -> bool:
    """Is a condition met in a trial? base: the recipe's own fields, for those that are not searched."""
    for dotted, wanted in when.items():
        value = point.get(dotted) if dotted in point else lookup(base, dotted)
        if value not in (wanted if isinstance(wanted, list) else [wanted]):
            return False
    return True


def lookup(fields: Mapping[str, Any], dotted: str) -> Any:
    """The value of a dotted field; None where there is none."""
    node: Any = fields
    for part in dotted.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node


def grid(space: Space, base: Mapping[str, Any]) -> list[Point]:
    """Every point of a space whose distributions are finite, the last field changing fastest."""
    points: list[Point] = [{}]
    for name, distribution in ordered(space).items():
        points = [
            {**point, **more}
            for point in points
            for more in (
                [{name: value} for value in grid_values(distribution)]
                if holds(distribution.when, point, base)
                else [{}]
            )
        ]
    return points


def grid_values(distribution: Distribution) -> list[Any]:
    """The values of a finite distribution."""
    if isinstance(distribution, Choice):
        return list(distribution.values)
    if isinstance(distribution, Int):
        return list(range(distribution.low, distribution.high + 1, distribution.step))
    count = distribution.points or 2
    shares = [i / (count - 1) for i in range(count)]
    if isinstance(distribution, LogUniform):
        low, high = math.log(distribution.low), math.log(distribution.high)
        return [min(max(math.exp(low + s * (high - low)), distribution.low), distribution.high) for s in shares]
    return [distribution.low + share * (distribution.high - distribution.low) for share in shares]


def search_line(recipe: Recipe) -> str:
    """The search of a recipe as a line, after its checks. Raises RecipeError."""
    tune = check_tune(recipe)
    check_space(recipe, tune)
    return f"search       {tune.searcher} over {', '.join(tune.space)}"


def check_space(recipe: Recipe, tune: TuneSection) -> None:
    """Every field exists, may be searched and takes its values; starts lie in the space. Raises RecipeError."""
    base = recipe.model_dump(mode="json")
    for name, distribution in ordered(tune.space).items():
        if any(name == fixed or name.startswith(f"{fixed}.") for fixed in FIXED):
            raise RecipeError(
                f"tune.space.{name} cannot be searched",
                got=name,
                expected="a field that leaves trials comparable and apart",
                fix="take it out of tune.space",
            )
        _check_exists(name, base)
        for other in distribution.when:
            _check_exists(other, base)
        _check_kinds(name, tune.space, base)
        for value in _extremes(distribution):
            _check_value(recipe, name, {**_kind_for(name, distribution, base), name: value})
    for number, start in enumerate(tune.start):
        for name, value in start.items():
            if name not in tune.space:
                close = difflib.get_close_matches(name, tune.space, n=1)
                raise RecipeError(
                    f"tune.start names a field outside the space: {name}",
                    got=f"point {number + 1}",
                    expected=f"one of {', '.join(tune.space)}",
                    fix=f"did you mean {close[0]}?" if close else "add it to tune.space, or remove it",
                )
            if not contains(tune.space[name], value):
                raise RecipeError(
                    f"tune.start lies outside tune.space.{name}",
                    got=repr(value),
                    expected=tune.space[name].model_dump_json(exclude={"when"}),
                    fix="widen the distribution, or move the point",
                )


def contains(distribution: Distribution, value: Any) -> bool:
    """May a distribution give this value?"""
    if isinstance(distribution, Choice):
        return value in distribution.values
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if not distribution.low <= value <= distribution.high:
        return False
    return not isinstance(distribution, Int) or (
        isinstance(value, int) and (value - distribution.low) % distribution.step == 0
    )


def _extremes(distribution: Distribution) -> list[Any]:
    return list(distribution.values) if isinstance(distribution, Choice) else [distribution.low, distribution.high]


def _check_kinds(name: str, space: Space, base: Mapping[str, Any]) -> None:
    """A field of some kinds of its section is searched in trials of these kinds only. Raises RecipeError."""
    section, _, field = name.partition(".")
    having, key = kinds_with(section, field.partition(".")[0]), f"{section}.kind"
    if not having:
        return
    searched = space.get(key)
    possible = list(searched.values) if isinstance(searched, Choice) else [lookup(base, key)]
    when = space[name].when.get(key, possible)
    wanted = when if isinstance(when, list) else [when]
    if lacking := [kind for kind in possible if kind in wanted and kind not in having]:
        raise RecipeError(
            f"tune.space.{name} is no field of every trial",
            got=f"{key}: {', '.join(map(str, lacking))}, which has no {field}",
            expected=f"{name} with {key}: {' or '.join(having)}",
            fix=f"add `when: {{{key}: {having[0]}}}` to it, or set {key}: {having[0]}",
        )


def _kind_for(name: str, distribution: Distribution, base: Mapping[str, Any]) -> Point:
    """{section.kind: one that has the field}, where the recipe's own has not."""
    section, _, field = name.partition(".")
    having, key = kinds_with(section, field.partition(".")[0]), f"{section}.kind"
    if not having or lookup(base, key) in having:
        return {}
    when = distribution.when.get(key, having)
    return {key: next((kind for kind in (when if isinstance(when, list) else [when]) if kind in having), having[0])}


def _check_value(recipe: Recipe, name: str, point: Point) -> None:
    try:
        apply(recipe, recipe.name, point)
    except RecipeError as error:
        raise RecipeError(
            f"tune.space.{name} gives values that the field does not take",
            got=error.got or repr(point[name]),
            expected=error.expected,
            fix="change the distribution: `int` or `choice` for whole numbers and words, bounds within the field's",
        ) from None


def _check_exists(name: str, base: Mapping[str, Any]) -> None:
    parts, node = name.split("."), base
    free_form = name.startswith("model.config.") and isinstance(lookup(base, "model.config"), dict)
    for part in parts[:-1]:
        child = node.get(part)
        node = child if isinstance(child, dict) else {}
    if parts[-1] in node or free_form or kinds_with(parts[0], ".".join(parts[1:])):
        return
    close = difflib.get_close_matches(name, list(_dotted(base)), n=1, cutoff=0.5)
    raise RecipeError(
        f"tune.space names no field of a recipe: {name}",
        got=name,
        expected="a field by its dotted name, as in `--set`",
        fix=f"did you mean {close[0]}?" if close else "`raysft schema` prints every field",
    )


def _dotted(fields: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in fields.items():
        if isinstance(value, dict) and value:
            yield from _dotted(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def neighbours(distribution: Distribution, value: Any, draw: float) -> Any:
    """A value close by, for population-based training: x 0.8 or x 1.2 (Jaderberg et al. 2017), or the next choice.

    draw: a number in [0, 1).
    """
    if isinstance(distribution, Choice | Int):
        values = grid_values(distribution)
        index = values.index(value) + (1 if draw >= 0.5 else -1)
        return values[min(max(index, 0), len(values) - 1)]
    return min(max(value * (1.2 if draw >= 0.5 else 0.8), distribution.low), distribution.high)
