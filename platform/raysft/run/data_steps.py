"""What is done to the data alone: prepared, reported on, their versions compared. Imports no model: starts sooner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from raysft import storage
from raysft.data.prepare.prepare import prepare
from raysft.data.prepare.prepared import Prepared
from raysft.data.report.survey import survey
from raysft.data.store import versions
from raysft.observe.data_report import aligned, render_data_report, survey_lines
from raysft.outputs import check_page
from raysft.recipe.checks import check_recipe
from raysft.recipe.paths import with_absolute_paths
from raysft.recipe.schema import Recipe
from raysft.run.progress import PrepareProgress
from raysft.runtime.join import cluster


@dataclass(frozen=True)
class WrittenReport:
    """A report that was written."""

    page: str
    numbers: str
    """The same as JSON."""
    survey: dict[str, Any]
    lines: list[str]
    """For a terminal."""


def prepare_data(recipe: Recipe) -> Prepared:
    """Make the recipe's token stores, or find them. Raises UserError."""
    check_recipe(recipe)
    storage.check_writable(storage.absolute(recipe.storage))
    with cluster(), PrepareProgress() as progress:
        return prepare(with_absolute_paths(recipe), progress=progress)


def report(recipe: Recipe, *, attributes: tuple[str, ...] = (), out: str | None = None) -> WrittenReport:
    """Survey the recipe's data; write the page at `out` (default: in the storage) and report.json beside it."""
    folder = storage.join(storage.absolute(recipe.storage), "datasets", recipe.name)
    page = storage.absolute(out) if out else storage.join(folder, "report.html")
    stem = page[: -len(".html")] if page.endswith(".html") else page
    numbers = f"{stem}.json"
    check_page(page, numbers)
    for location in (folder, page.rpartition("/")[0]):
        storage.check_writable(location)
    with cluster(), PrepareProgress() as progress:
        found = survey(with_absolute_paths(recipe), attributes=attributes, progress=progress)
    storage.write_bytes(page, render_data_report(found).encode())
    storage.write_json(numbers, found)
    return WrittenReport(page, numbers, found, survey_lines(found))


def log(recipe: Recipe) -> list[str]:
    """The versions, newest first, as lines of a table; `*` marks the one that counts."""
    found = versions.read_log(recipe)
    if not found:
        return [f"{recipe.name} has no data version yet: `raysft prepare` makes the first"]
    rows = [["", "version", "when", "samples", "tokens", "change"]]
    for version in reversed(found):
        manifest = versions.manifest_of(recipe, version.fingerprint)
        counts = manifest["counts"] if manifest else {}
        sizes = [f"{counts[name]:,}" if name in counts else "gone" for name in ("examples", "tokens")]
        mark = ("*" if version is found[-1] else "") + ("<" if version.is_rollback else "")
        rows.append([mark, str(version.number), version.at, *sizes, _short(version.change)])
    return [*aligned(rows), "* the version that counts; < a rollback"]


def diff(recipe: Recipe, first: int, second: int) -> list[str]:
    """What differs between two versions, one line each."""
    found = versions.read_log(recipe)
    old, new = (versions.find(recipe, found, number) for number in (first, second))
    lines = versions.differing(recipe, old.fingerprint, new.fingerprint)
    return lines or [f"versions {first} and {second} are the same store"]


def roll_back(recipe: Recipe, number: int) -> list[str]:
    """Let an older version count; says which."""
    version = versions.roll_back(recipe, number)
    location = versions.store_location(recipe, version.fingerprint)
    return [
        f"version {version.number}: {version.change}",
        f"store {location}",
        "the recipe uses it until its data changes; `raysft data rollback` to a newer version undoes it",
    ]


def _short(change: str) -> str:
    return change if len(change) <= 100 else change[:97] + "..."
