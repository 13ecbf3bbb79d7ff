"""Where Ray has put the workers of an attempt: groups of ranks that talk in every layer, and lie on several nodes."""

from __future__ import annotations

from collections.abc import Sequence

from raysft import storage
from raysft.recipe.layout import Layout
from raysft.recipe.schema import Recipe
from raysft.train.history.paths import RunPaths
from raysft.train.history.records import ledger_host

UNKNOWN = "?"
"""A host that an object store does not show yet."""


def hosts_of(run: str, attempt: int) -> list[str]:
    """The host name of each rank of an attempt that has begun."""
    count = len(storage.list_names(RunPaths(run).ledgers(attempt)))
    return [ledger_host(run, attempt, rank) for rank in range(count)]


def torn_groups(recipe: Recipe, hosts: Sequence[str]) -> list[list[int]]:
    """Ranks of each tensor- and sequence-parallel group that lies on more than one host. Pure."""
    split = recipe.parallel
    within = split.sequence * split.tensor
    replicas, rest = divmod(len(hosts), split.pipeline * within)
    if within == 1 or rest or UNKNOWN in hosts:
        return []
    layout = Layout(stages=split.pipeline, replicas=replicas, sequence=split.sequence, tensor=split.tensor)
    groups = layout.groups("sequence", "tensor")
    return [group for group in groups if len({hosts[rank] for rank in group}) > 1]


def placement_line(run: str, recipe: Recipe, attempt: int) -> str | None:
    """What a user should know of where the workers of an attempt are; None: nothing."""
    hosts = hosts_of(run, attempt)
    torn = torn_groups(recipe, hosts)
    if not torn:
        return None
    first = ", ".join(f"rank {rank} on {hosts[rank]}" for rank in torn[0])
    split = recipe.parallel
    axis = "parallel.tensor" if split.tensor > 1 else "parallel.sequence"
    return (
        f"{len(torn)} group(s) of {split.sequence * split.tensor} workers that exchange activations in every layer "
        f"lie on more than one node ({first}): each step waits for the network between them. The GPUs that were free "
        f"on a node are no multiple of that; start the run when nodes are free as a whole, or lower {axis}"
    )
