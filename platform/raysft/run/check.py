"""`raysft check`: all that is known of a run before its data are read, in seconds. Starts nothing, writes nothing."""

from __future__ import annotations

from dataclasses import dataclass

from raysft import storage
from raysft.data.read.sources import expand
from raysft.data.text.stops import recipe_template
from raysft.data.text.tokenizer import recipe_tokenizer, tokenizer_source
from raysft.model.facts import read_facts
from raysft.recipe.evaluation_sets import set_sources
from raysft.recipe.facts import DataFacts
from raysft.recipe.paths import with_absolute_paths
from raysft.recipe.resolve import resolve, schedule
from raysft.recipe.schema import Recipe
from raysft.recipe.sections.data import SourceSection
from raysft.run.run import check_before_ray
from raysft.run.rundir import check_same_recipe, read_result, run_location
from raysft.train.commits.layout import read_commits
from raysft.train.commits.lineage import lineage, read_attempts


@dataclass(frozen=True)
class CheckedRecipe:
    """A recipe that nothing stops, as far as can be known before its data are read."""

    recipe: Recipe
    """With absolute paths."""
    model_type: str
    total_steps: int | None
    """None: known when the data are prepared (`train.epochs`)."""
    run: str
    """Its directory, there or not."""
    lines: tuple[str, ...]
    """All of it, for a terminal."""


def check(recipe: Recipe) -> CheckedRecipe:
    """What a run of the recipe would be. Raises UserError with the first thing that would stop it."""
    recipe = with_absolute_paths(recipe)
    trained = check_before_ray(recipe)
    facts = read_facts(recipe)
    resolved = resolve(recipe, facts, None)
    tokenizer = recipe_tokenizer(recipe)
    recipe_template(recipe, tokenizer)
    lines = [
        f"model        {recipe.model.source}: {facts.model_type}, {facts.num_layers} layers x {facts.hidden_size}",
        f"tokenizer    {tokenizer_source(recipe)}: {len(tokenizer):,} tokens, template {recipe.data.template}",
        *trained,
        *resolved.describe(),
        _files("data", recipe, recipe.data.sources),
    ]
    if recipe.data.eval:
        lines.append(_files("held out", recipe, (SourceSection(path=recipe.data.eval, name="eval"),)))
    for name, source in set_sources(recipe).items():
        lines.append(_files(f"set {name}", recipe, (source,)))
    steps = None
    if recipe.train.max_steps is not None:
        steps = schedule(resolved, DataFacts(None)).total_steps
        lines.append(f"run          {steps} steps of {recipe.train.rows_per_step} rows")
    else:
        lines.append(f"run          {recipe.train.epochs} epochs; the steps are known when the data are prepared")
    told = (*lines, _directory(recipe))
    return CheckedRecipe(recipe, facts.model_type, steps, run_location(recipe), told)


def _files(label: str, recipe: Recipe, sources: tuple[SourceSection, ...]) -> str:
    files = expand(
        sources,
        format=recipe.data.format,
        columns=recipe.data.columns,
        purpose="train" if label == "data" else "eval",
    )
    num_bytes = sum(file.num_bytes for file in files)
    return f"{label:12} {len(files)} files, {num_bytes / 1e6:,.1f} MB; what is in them: `raysft preview`"


def _directory(recipe: Recipe) -> str:
    """What is there under the run's name already."""
    run = run_location(recipe)
    if not storage.exists(run):
        return f"directory    {run}: new"
    check_same_recipe(run, recipe)
    if read_result(run) is not None:
        return f"directory    {run}: this run has finished"
    commits = lineage(read_attempts(run), read_commits(run))
    return f"directory    {run}: " + (
        f"goes on from step {commits[0].step}" if commits else "begun, no checkpoint yet"
    )
