"""`raysft.compare`: several runs beside each other, as an object and as a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raysft import storage
from raysft.metrics.estimate import Change
from raysft.observe.comparison import ComparedRun, comparison_lines, differing_fields, render_comparison
from raysft.outputs import check_page
from raysft.run.compare import compared_runs


@dataclass(frozen=True)
class Comparison:
    """Runs in the order in which they were named."""

    runs: tuple[ComparedRun, ...]
    page: str | None
    """Location of the page that was written; None: none was asked for."""

    @property
    def fields(self) -> dict[str, tuple[str, ...]]:
        """{field of the recipe: each run's value} of those in which not all agree."""
        return {name: tuple(values) for name, values in differing_fields(self.runs)}

    @property
    def changes(self) -> dict[str, tuple[Change | None, ...]]:
        """{SET/METRIC: each run's change against the first, on the same prompts}; None: not tested."""
        names = {f"{name}/{metric}" for run in self.runs for name, found in run.changes.items() for metric in found}
        return {full: tuple(_change(run, *full.split("/", 1)) for run in self.runs) for full in sorted(names)}

    def lines(self) -> list[str]:
        """Tables for a terminal."""
        return comparison_lines(self.runs)

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def _repr_html_(self) -> str:
        return render_comparison(self.runs)


def _change(run: ComparedRun, name: str, metric: str) -> Change | None:
    found = run.changes.get(name, {}).get(metric)
    return Change(**found) if found else None


def compare(runs: Sequence[str], out: str | None) -> Comparison:
    """See verbs.compare."""
    page = None if out is None else storage.absolute(out)
    if page is not None:
        check_page(page)
    found = tuple(compared_runs(runs))
    if page is not None:
        storage.write_bytes(page, render_comparison(found).encode())
    return Comparison(found, page)
