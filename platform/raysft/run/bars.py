"""Bars of a terminal, as wide as it is: a line each that nothing wraps. Drawn on stderr; elsewhere not at all."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn
from rich.table import Column

WIDE, MIDDLE, NARROW = 100, 60, 34
"""Columns from which on there is room for times, for a task's own words, for the bar itself."""


def bars(*times: ProgressColumn, console: Console | None = None, transient: bool = False) -> Progress:
    """What is done, a bar, how much of it, and where there is room each task's `text` and `times`.

    The one column that takes what the others leave is cut with an ellipsis.
    """
    console = console or Console(stderr=True)
    width = console.width
    has_words = width >= MIDDLE
    what = TextColumn("{task.description}", table_column=_flexible() if not has_words else Column(no_wrap=True))
    bar = BarColumn(30 if width >= WIDE else 12)
    columns: list[ProgressColumn] = [what, *([bar] if width >= NARROW else []), _Count()]
    if has_words:
        columns.append(TextColumn("{task.fields[text]}", markup=False, table_column=_flexible()))
    if width >= WIDE:
        columns.extend(times)
    return Progress(*columns, console=console, transient=transient, expand=True, disable=not console.is_terminal)


class _Count(MofNCompleteColumn):
    """3/40, in one line."""

    def get_table_column(self) -> Column:
        """See ProgressColumn."""
        return Column(no_wrap=True)


def _flexible() -> Column:
    return Column(ratio=1, no_wrap=True, overflow="ellipsis")
