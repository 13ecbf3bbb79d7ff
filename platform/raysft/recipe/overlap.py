"""Whether gradients are summed over workers while backward goes on. Why so: docs/decisions/070."""

from __future__ import annotations

from raysft.recipe.schema import Recipe


def overlaps(recipe: Recipe) -> bool:
    """What `parallel.overlap` says; not set: ZeRO 3 on GPUs, nothing of it in host memory."""
    parallel = recipe.parallel
    if parallel.overlap is not None:
        return parallel.overlap
    return parallel.zero == 3 and parallel.offload == "none" and recipe.cluster.gpus_per_worker > 0


def overlap_lines(recipe: Recipe) -> list[str]:
    """What a run says of it where there is anything to say: several GPU workers, or a recipe that names it."""
    parallel, cluster = recipe.parallel, recipe.cluster
    if parallel.overlap is None and (cluster.gpus_per_worker == 0 or cluster.workers == 1):
        return []
    when = "while backward goes on" if overlaps(recipe) else "when a bucket of them is full; backward waits"
    why = "not set" if parallel.overlap is None else str(parallel.overlap).lower()
    if sums_at_the_end(recipe):
        when = "after backward"
    return [f"gradients    summed over workers {when} (parallel.overlap: {why})"]


def sums_at_the_end(recipe: Recipe) -> bool:
    """Are gradients summed when all passes are done, so that there is nothing to overlap?"""
    parallel = recipe.parallel
    apart = parallel.zero == 1 and recipe.train.precision == "bf16" and parallel.offload == "none"
    return parallel.pipeline > 1 or parallel.zero == 0 or apart
