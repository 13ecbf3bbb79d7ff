"""Every rule over several fields of one recipe, pure. What also needs the model or the cluster is in resolve.py."""

from __future__ import annotations

from raysft.errors import RecipeError
from raysft.recipe.data_checks import check_data
from raysft.recipe.evaluation_sets import check_sets
from raysft.recipe.forgetting import check_forgetting
from raysft.recipe.model_checks import check_method, check_model, check_schedule
from raysft.recipe.objective_checks import check_objective
from raysft.recipe.optimizer_checks import check_optimizer
from raysft.recipe.overlap import sums_at_the_end
from raysft.recipe.schema import Recipe
from raysft.recipe.sections.parallel import ParallelSection
from raysft.recipe.traits import virtual_tokens

AUTOMATIC = ("zero", "tensor", "pipeline", "sequence")
"""Fields that parallel.auto chooses."""


def check_recipe(recipe: Recipe) -> None:
    """Raises RecipeError."""
    _check_workers(recipe)
    for check in (
        _check_auto,
        _check_offload,
        _check_communication,
        check_model,
        check_method,
        check_optimizer,
        check_data,
        check_objective,
        _check_noise,
        _check_steps,
        check_sets,
        check_forgetting,
    ):
        check(recipe)


def check_warmup(recipe: Recipe, total_steps: int) -> None:
    """Is there a step after the warm-up? Raises RecipeError."""
    if recipe.optimizer.warmup_steps >= total_steps:
        raise RecipeError(
            "the warm-up is as long as the run",
            got=f"optimizer.warmup_steps = {recipe.optimizer.warmup_steps}, the run has {total_steps} steps",
            expected="fewer warm-up steps than steps",
            fix=f"set optimizer.warmup_steps below {total_steps}, or train longer",
        )


def _check_steps(recipe: Recipe) -> None:
    """What the number of steps decides, where the recipe says it."""
    if recipe.train.max_steps is not None:
        check_warmup(recipe, recipe.train.max_steps)
        check_schedule(recipe, recipe.train.max_steps)


def _check_auto(recipe: Recipe) -> None:
    """What is chosen cannot be given."""
    parallel, default = recipe.parallel.model_dump(), ParallelSection().model_dump()
    given = [f"{name}: {parallel[name]}" for name in AUTOMATIC if parallel[name] != default[name]]
    if recipe.parallel.auto and given:
        raise RecipeError(
            "the layout is given and left open at once",
            got=f"parallel.auto: true and {', '.join(given)}",
            expected="one of them",
            fix="remove parallel.auto, or the fields that it chooses",
        )


def _check_offload(recipe: Recipe) -> None:
    """Only the ZeRO engine moves what ZeRO partitions."""
    parallel = recipe.parallel
    if parallel.offload != "none" and (parallel.zero == 0 or parallel.pipeline > 1):
        raise RecipeError(
            "only ZeRO 1, 2 and 3 without a pipeline keep states in host memory",
            got=f"parallel.offload: {parallel.offload}, zero: {parallel.zero}, pipeline: {parallel.pipeline}",
            expected="parallel.zero: 1, 2 or 3, and parallel.pipeline: 1",
            fix="set parallel.zero: 2, or remove parallel.offload",
        )


def _check_communication(recipe: Recipe) -> None:
    """What DeepSpeed would ignore, or nobody has compared with the plain way."""
    parallel, workers = recipe.parallel, recipe.cluster.workers
    if parallel.pipeline > 1 and (parallel.overlap or recipe.train.reduce_precision is not None):
        raise RecipeError(
            "a pipeline reduces its gradients after all passes, in their own precision",
            got=f"pipeline: {parallel.pipeline}, overlap: {parallel.overlap}, "
            f"train.reduce_precision: {recipe.train.reduce_precision}",
            expected="neither of them, or parallel.pipeline: 1",
            fix="remove parallel.overlap and train.reduce_precision",
        )
    if parallel.overlap and sums_at_the_end(recipe):
        raise RecipeError(
            "gradients are summed after all passes, so that nothing overlaps",
            got=f"parallel.overlap: true, zero: {parallel.zero}, train.precision: {recipe.train.precision}",
            expected="parallel.zero: 2 or 3, or 1 in fp32",
            fix="remove parallel.overlap, or set parallel.zero: 2",
        )
    shards = parallel.secondary_shards
    if shards > 1 and (parallel.zero != 3 or workers % shards):
        raise RecipeError(
            "a second copy of the weights needs ZeRO 3 and equal groups of workers",
            got=f"parallel.secondary_shards: {shards}, zero: {parallel.zero}, {workers} workers",
            expected="parallel.zero: 3, and a divisor of cluster.workers",
            fix="remove parallel.secondary_shards",
        )


def _check_workers(recipe: Recipe) -> None:
    """The least and the most."""
    wanted = recipe.cluster
    if wanted.min_workers is not None and wanted.min_workers > wanted.workers:
        raise RecipeError(
            "the fewest workers are more than the most",
            got=f"cluster.min_workers = {wanted.min_workers}, cluster.workers = {wanted.workers}",
            expected="min_workers of at most workers",
            fix=f"set cluster.workers: {{min: {wanted.workers}, max: {wanted.min_workers}}}",
        )


def _check_noise(recipe: Recipe) -> None:
    train, extra = recipe.train, virtual_tokens(recipe)
    if train.adversarial_epsilon and (train.embedding_noise or extra):
        others = {
            f"train.embedding_noise: {train.embedding_noise:g}": bool(train.embedding_noise),
            f"method.kind: {recipe.method.kind}": bool(extra),
        }
        named = ", ".join(words for words, stands in others.items() if stands)
        otherwise = "method.kind: lora" if extra else "train.embedding_noise: 0"
        raise RecipeError(
            "adversarial training moves the embeddings of samples alone",
            got=f"train.adversarial_epsilon: {train.adversarial_epsilon:g}, {named}",
            expected="no noise on them, and a method without virtual tokens",
            fix=f"set train.adversarial_epsilon: 0, or {otherwise}",
        )
    if train.embedding_noise and extra:
        raise RecipeError(
            "noise on embeddings does not go with virtual tokens, which are no sample's",
            got=f"train.embedding_noise: {train.embedding_noise:g}, method.kind: {recipe.method.kind}",
            expected="a method without virtual tokens, or no noise",
            fix="set train.embedding_noise: 0",
        )
