"""`raysft.plan`: every layout of a recipe on a cluster, as rows with units."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from raysft.api.tables import frame, table_html
from raysft.observe.console import printable
from raysft.planner.devices import GIB
from raysft.planner.layout import LayoutForecast, replicas
from raysft.recipe.schema import Recipe
from raysft.run import layout_choice
from raysft.run.layout_choice import RankedLayouts

if TYPE_CHECKING:
    import pandas

SHOWN = 10
"""Layouts in a notebook's table."""


@dataclass(frozen=True)
class PlannedLayout:
    """One layout: how the work is split, what it needs, how fast it would be. Times and sizes are predicted."""

    zero: int
    """ZeRO stage."""
    tensor: int
    pipeline: int
    sequence: int
    replicas: int
    """Data-parallel copies of tensor x pipeline x sequence workers."""
    gradient_checkpointing: bool
    fits: bool
    status: str
    """`tested`: a test trains it; `untested`: it is allowed, and no test does."""
    memory_gib: float
    """On the fullest worker."""
    step_s: float
    """Seconds of an optimizer step."""
    tokens_per_s: float
    """Tokens per second, all devices together."""
    mfu: float
    """Model FLOP/s over what the devices could do, 0 to 1."""


@dataclass(frozen=True)
class Plan:
    """Every layout of a recipe on a cluster: those that fit by predicted time, then those that lack memory."""

    name: str
    """The recipe's name."""
    cluster: str
    """`8 x H100-80G`."""
    rows: tuple[PlannedLayout, ...]
    own: int | None
    """Place of the recipe's layout in `rows`; None: it cannot run there, or `parallel.auto` left it open."""
    ranking: RankedLayouts
    """Where the numbers come from: memory by class, time by cause."""

    @property
    def best(self) -> PlannedLayout | None:
        """The fastest that fits; None: none does, and `str()` of the plan says what would."""
        return self.rows[0] if self.rows and self.rows[0].fits else None

    def recipe(self, place: int = 0) -> Recipe:
        """The recipe in a layout of `rows`, with a worker for each device of the cluster; 0 is the first."""
        return self.ranking.ranked[place].recipe

    def to_frame(self) -> pandas.DataFrame:
        """`rows` as a pandas frame. Raises UserError where pandas is not installed."""
        return frame([asdict(row) for row in self.rows])

    def to_json(self) -> dict[str, Any]:
        """All numbers, in bytes and seconds: what `raysft plan --json` prints."""
        return self.ranking.to_json()

    def lines(self) -> list[str]:
        """What `raysft plan` prints: the table, why the first is first, what is too large."""
        return self.ranking.lines()

    def __str__(self) -> str:
        return printable("\n".join(self.lines()))

    def _repr_html_(self) -> str:
        head = ("", "ZeRO", "TP", "PP", "SP", "DP", "ckpt", "GiB", "step s", "tokens/s", "MFU", "")
        rows = []
        for place, row in enumerate(self.rows[:SHOWN]):
            note = "too large" if not row.fits else "untested" if row.status == "untested" else ""
            axes = (row.zero, row.tensor, row.pipeline, row.sequence, row.replicas, row.gradient_checkpointing)
            speed = (round(row.memory_gib, 1), f"{row.step_s:.3g}", f"{row.tokens_per_s:,.0f}", f"{row.mfu:.0%}")
            rows.append((place + 1, *axes, *speed, note))
        return table_html(f"{self.name} on {self.cluster}: {len(self.rows)} layouts", head, rows, self.own)


def plan(recipe: Recipe, cluster: str | None) -> Plan:
    """See verbs.plan."""
    found = layout_choice.plan(recipe, cluster)
    where = f"{found.cluster.num_devices} x {found.cluster.device.name}"
    return Plan(recipe.name, where, tuple(map(_layout, found.ranked)), found.own, found)


def _layout(candidate: LayoutForecast) -> PlannedLayout:
    parallel = candidate.recipe.parallel
    return PlannedLayout(
        zero=parallel.zero,
        tensor=parallel.tensor,
        pipeline=parallel.pipeline,
        sequence=parallel.sequence,
        replicas=replicas(candidate.recipe),
        gradient_checkpointing=candidate.recipe.train.gradient_checkpointing,
        fits=candidate.fits,
        status=candidate.status,
        memory_gib=candidate.memory.total / GIB,
        step_s=candidate.time.total_s,
        tokens_per_s=candidate.time.tokens_per_s,
        mfu=candidate.time.mfu,
    )
