"""`raysft.preview`, `prepare` and `data_report`: what training will see, the stores, the report."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from rich.console import Console
from rich.text import Text

from raysft.api.tables import table_html
from raysft.data.report.preview import certificate
from raysft.data.report.preview import preview as preview_records
from raysft.errors import DataError
from raysft.observe.console import printable
from raysft.recipe.paths import with_absolute_paths
from raysft.recipe.schema import Recipe
from raysft.run import data_steps


@dataclass(frozen=True)
class Preview:
    """The first records as they become tokens. In a notebook: trained text is green; as text: between [[ and ]]."""

    text: str
    """Without colours."""
    colored: Text
    """For a rich Console."""
    num_records: int
    num_samples: int
    refused: str
    """Reasons of refusals with their counts; empty: none."""

    def check(self) -> None:
        """Raise DataError when none of these records becomes a sample."""
        read = "the one record that was read" if self.num_records == 1 else f"the first {self.num_records} records"
        if not self.num_samples:
            raise DataError(
                "none of these records becomes a sample",
                got=f"{read}: {self.refused or 'left out by data.rules'}",
                expected="records that are trained",
                fix="see above what each lacks; --num shows more records",
            )

    def __str__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        page = Console(record=True, file=io.StringIO(), width=120, force_jupyter=False, color_system="truecolor")
        page.print(self.colored, soft_wrap=True)
        return page.export_html(inline_styles=True, code_format='<pre style="white-space: pre-wrap">{code}</pre>')


def preview(recipe: Recipe, num: int, *, packed: bool, raw: bool) -> Preview:
    """See verbs.preview."""
    seen = preview_records(with_absolute_paths(recipe), num, packed=packed, raw=raw)
    return Preview(seen.plain.plain, seen.colored, seen.num_records, seen.num_samples, seen.refused)


@dataclass(frozen=True)
class Store:
    """Packed token rows with their loss mask."""

    location: str | None
    """None: the data stream (`data.mode: stream`), and only the first records were counted."""
    num_samples: int
    """Samples in the store; where they are pairs of answers, the pairs."""
    num_tokens: int
    num_target_tokens: int
    """Tokens that are trained."""
    num_records: int
    """That were read."""
    refused: dict[str, int]
    """Records that were not taken, by reason."""
    certificate: tuple[str, ...]
    """What was trained, cut and refused, in lines."""
    manifest: dict[str, Any]
    """All that the store says of itself."""

    def __str__(self) -> str:
        return printable("\n".join([self.location or "streamed", *self.certificate]))

    def _repr_html_(self) -> str:
        return table_html(self.location or "streamed", (), [(line,) for line in self.certificate])


@dataclass(frozen=True)
class PreparedData:
    """The token stores of a recipe."""

    train: Store
    held_out: Store | None
    """None: neither data.eval nor data.eval_fraction."""
    sets: dict[str, Store]
    """Those of evaluate.sets with data of their own, by name."""

    @property
    def stores(self) -> tuple[Store, ...]:
        """All of them."""
        return tuple(store for store in (self.train, self.held_out, *self.sets.values()) if store is not None)

    def __str__(self) -> str:
        return "\n".join(map(str, self.stores))

    def _repr_html_(self) -> str:
        return "\n".join(store._repr_html_() for store in self.stores)


def prepare(recipe: Recipe) -> PreparedData:
    """See verbs.prepare."""
    found = data_steps.prepare_data(recipe)
    held_out = None if found.eval_manifest is None else _store(found.eval, found.eval_manifest)
    sets = {name: _store(store.location, store.manifest) for name, store in found.sets.items()}
    return PreparedData(_store(found.train, found.train_manifest), held_out, sets)


def _store(location: str | None, manifest: dict[str, Any]) -> Store:
    counts = manifest["counts"]
    return Store(
        location=location,
        num_samples=counts["examples"],
        num_tokens=counts["tokens"],
        num_target_tokens=counts["target_tokens"],
        num_records=counts["records_read"],
        refused=dict(counts["refused"]),
        certificate=tuple(certificate(manifest)),
        manifest=manifest,
    )


@dataclass(frozen=True)
class DataReport:
    """What the training data are like."""

    page: str
    """Location of the HTML page."""
    numbers: str
    """Location of the same as JSON."""
    survey: dict[str, Any]
    """The numbers."""
    lines: tuple[str, ...]
    """The summary, for a terminal."""

    def __str__(self) -> str:
        return printable("\n".join(self.lines))

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre><p>{escape(self.page)}</p>"


def data_report(recipe: Recipe, *, attributes: Sequence[str], out: str | None) -> DataReport:
    """See verbs.data_report."""
    found = data_steps.report(recipe, attributes=tuple(attributes), out=out)
    return DataReport(found.page, found.numbers, found.survey, tuple(found.lines))
