"""Paths of a recipe made absolute. What is no local path (a URI, a hub id, a template by name) stays."""

from __future__ import annotations

from pathlib import Path

from raysft.recipe.change import change
from raysft.recipe.cleaning import Contamination, HarmfulWords, Rule, Synonyms
from raysft.recipe.objective_traits import teachers_of
from raysft.recipe.schema import Recipe
from raysft.recipe.sections.data import SourceSection
from raysft.recipe.traits import method_of


def with_absolute_paths(recipe: Recipe) -> Recipe:
    """Every relative path made absolute from here: Ray's workers run in other directories.

    A model source that is no local directory (a hub id, run://, random) stays as it is.
    """
    model, data, teachers = recipe.model, recipe.data, teachers_of(recipe)
    taught = {"objective.teachers": tuple(map(_absolute_if_there, teachers))} if teachers else {}
    return change(
        recipe,
        {
            "storage": _absolute(recipe.storage),
            "model.source": _absolute_if_there(model.source),
            "model.tokenizer": model.tokenizer and _absolute_if_there(model.tokenizer),
            "data.train": tuple(map(_absolute_source, data.train)),
            "data.eval": tuple(map(_absolute, data.eval)),
            "evaluate.sets": {
                name: one.model_copy(update={"data": tuple(map(_absolute, one.data))})
                for name, one in recipe.evaluate.sets.items()
            },
            "evaluate.bertscore.model": (encoder := recipe.evaluate.bertscore.model) and _absolute(encoder),
            "evaluate.toxicity.lists": tuple(map(_absolute, recipe.evaluate.toxicity.lists)),
            "data.template": data.template if Path(data.template).is_dir() else _absolute_if_there(data.template),
            "data.rules": tuple(map(_absolute_rule, data.rules)),
            **taught,
            **{
                f"method.{name}": _absolute_if_there(location)
                for name, location in method_of(recipe).places(recipe.method).items()
            },
        },
    )


def _absolute_source(source: str | SourceSection) -> str | SourceSection:
    if isinstance(source, str):
        return _absolute(source)
    return source.model_copy(update={"path": tuple(map(_absolute, source.path))})


def _absolute_rule(rule: Rule) -> Rule:
    """A rule with its files' paths made absolute."""
    if isinstance(rule, HarmfulWords):
        return rule.model_copy(update={"lists": {name: _absolute(file) for name, file in rule.lists.items()}})
    if isinstance(rule, Contamination):
        return rule.model_copy(update={"files": tuple(map(_absolute, rule.files))})
    if isinstance(rule, Synonyms):
        return rule.model_copy(update={"table": _absolute(rule.table)})
    return rule


def _absolute(location: str) -> str:
    return location if "://" in location else str(Path(location).expanduser().absolute())


def _absolute_if_there(location: str) -> str:
    looks_local = location.startswith((".", "/", "~")) or Path(location).exists()
    return _absolute(location) if looks_local else location
