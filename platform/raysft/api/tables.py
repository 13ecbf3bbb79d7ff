"""Records as a table: HTML for a notebook, a pandas frame where pandas is installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from raysft.errors import UserError

if TYPE_CHECKING:
    import pandas


def table_html(caption: str, head: Sequence[str], rows: Sequence[Sequence[object]], marked: int | None = None) -> str:
    """A table; every text is escaped. marked: the row in bold."""
    lines = [f"<table><caption>{escape(caption)}</caption>"]
    if head:
        lines.append(f"<thead><tr>{''.join(f'<th>{escape(name)}</th>' for name in head)}</tr></thead>")
    lines.append("<tbody>")
    for number, row in enumerate(rows):
        style = ' style="font-weight: bold"' if number == marked else ""
        lines.append(f"<tr{style}>{''.join(f'<td>{escape(shown(cell))}</td>' for cell in row)}</tr>")
    return "\n".join([*lines, "</tbody></table>"])


def shown(value: object) -> str:
    """A cell: numbers with at most six digits, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def frame(records: Sequence[Mapping[str, object]]) -> pandas.DataFrame:
    """A row for each record. Raises UserError where pandas is not installed."""
    try:
        import pandas
    except ImportError as error:
        raise UserError(
            "a frame needs pandas",
            got=str(error),
            expected="pandas, which raysft itself does not need",
            fix="pip install pandas, or read the object's own rows",
        ) from error
    return pandas.DataFrame(list(records))
