"""What a recipe streams. Apart from stream.py, whose tasks need no transformers."""

from __future__ import annotations

from raysft.data.feed.stream import StreamSource
from raysft.data.prepare.fingerprint import describe_sides
from raysft.recipe.schema import Recipe


def stream_source(recipe: Recipe, *, cpus_per_task: int) -> StreamSource:
    """What a run in stream mode reads; the same on every process that asks."""
    side = describe_sides(recipe)[0]
    return StreamSource(
        tuple(side.files),
        tuple(side.contents),
        side.stage,
        recipe.data.max_tokens,
        cpus_per_task,
        side.fingerprint,
    )
