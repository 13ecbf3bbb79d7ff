"""Which searches can train their trials together on one base model (`tune.executor`). Pure."""

from __future__ import annotations

from raysft.errors import RecipeError
from raysft.recipe.objective_traits import embeds, head_of, live_columns
from raysft.recipe.schema import Recipe
from raysft.recipe.traits import METHODS, method_of
from raysft.recipe.tune import TuneSection

OWN_FIELDS = (
    *("optimizer.", "method.rank", "method.alpha", "method.dropout", "method.target_modules", "seed"),
    "method.b_learning_rate_ratio",
    *("train.rows_per_step", "train.micro_batch_rows", "train.max_steps", "train.epochs"),
)
"""Fields in which trials on one base may differ: no weight and no activation of the base depends on them."""

TRIALS_PER_HOST = 8
"""Trials together where tune.concurrent does not say it."""


def obstacles(recipe: Recipe, tune: TuneSection) -> list[str]:
    """What stands against training the trials together, each in words; empty: nothing that a recipe tells."""
    moved = [name for name in tune.space if not name.startswith(OWN_FIELDS)]
    company = [metric for metric in tune.metrics if metric in ("tokens_per_s", "peak_bytes")]
    method = method_of(recipe)
    drops = method.drops(recipe.method) or "method.dropout" in tune.space
    start = method.computed_start(recipe.method)
    alone = "only adapters leave a base frozen"
    if not method.trains_base:
        shared = ", ".join(kind for kind, traits in METHODS.items() if "shared_base" in traits.allows)
        alone = f"one pass computes adapters of {shared} only"
    return [
        words
        for stands, words in (
            ("shared_base" not in method.allows, f"method.kind: {recipe.method.kind} ({alone})"),
            (method.is_four_bit(recipe.method), "method.base_precision: nf4"),
            (start, f"method.init ({start}: each trial's own, computed by a task)"),
            (
                recipe.optimizer.needs_whole or "optimizer.kind" in tune.space,
                f"optimizer.kind: {recipe.optimizer.kind} (its matrices would be those of all trials)",
            ),
            (head_of(recipe), f"objective: {recipe.objective.kind} (a head for each trial)"),
            (live_columns(recipe), "objective.live (the teachers' columns come with a batch of one trial)"),
            (embeds(recipe), f"objective: {recipe.objective.kind} (each trial compares the texts of its own steps)"),
            (recipe.train.adversarial_epsilon, "train.adversarial_epsilon (a pass would move all trials at once)"),
            (recipe.train.embedding_noise, "train.embedding_noise (a pass would draw for all trials at once)"),
            (moved, f"{', '.join(moved)} in tune.space (trials would need other base models or other data)"),
            (
                "seed" in tune.space and recipe.model.source == "random",
                "seed in tune.space with model.source: random (each trial would have other weights)",
            ),
            (recipe.cluster.workers > 1, f"cluster.workers: {recipe.cluster.workers} (one process trains them all)"),
            (recipe.data.mode != "prepared", "data.mode: stream"),
            (recipe.parallel.auto, "parallel.auto"),
            (recipe.parallel.offload != "none", f"parallel.offload: {recipe.parallel.offload}"),
            (
                recipe.train.gradient_checkpointing and drops,
                "train.gradient_checkpointing with method.dropout (dropout would be drawn twice)",
            ),
            (company, f"{', '.join(company)} in tune.metrics (they would be those of all trials together)"),
        )
        if stands
    ]


def check_executor(recipe: Recipe, tune: TuneSection) -> None:
    """Raises RecipeError where `fused` is asked for and cannot be."""
    found = obstacles(recipe, tune)
    if tune.executor == "fused" and found:
        raise RecipeError(
            "these trials cannot train together on one base model",
            got="; ".join(found),
            expected=f"LoRA trials of one worker that differ in {', '.join(OWN_FIELDS)} only",
            fix="set tune.executor: separate (or auto), or change that",
        )


def is_fused(recipe: Recipe, tune: TuneSection, room: int) -> bool:
    """Do trials train together? room: workers that the cluster holds; `auto`: when more trials run at a time."""
    if tune.executor != "auto":
        return tune.executor == "fused"
    return not obstacles(recipe, tune) and trials_at_a_time(tune, room * TRIALS_PER_HOST) > room


def trials_at_a_time(tune: TuneSection, default: int) -> int:
    """tune.concurrent, or the default; no more than there are trials."""
    return min(tune.concurrent or default, tune.budget.trials or default)
