"""Where a run's time went, told to people: lines for a terminal, a bar for the page. Adds up nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape

BAR = 50
"""Characters of the terminal's bar."""
SIGNS = dict(
    zip(
        (
            "compute",
            "data_wait",
            "checkpoint",
            "evaluation",
            "start",
            "prepare",
            "export",
            "lost",
            "recovery",
            "down",
        ),
        "█wceSPXLR.",
        strict=True,
    )
)
"""How each class is drawn on a terminal, in order; the page has a CSS class for each."""


@dataclass(frozen=True)
class IncidentRow:
    """One incident. None: not known, or not over."""

    at: float | None
    """Unix time at which it was noticed."""
    kind: str
    what: str
    step: int | None
    detected_after_s: float | None
    steps_lost: int | None
    lost_s: float | None
    back_after_s: float | None

    def cells(self) -> tuple[str, ...]:
        """As TITLES, without what happened."""
        when = "-" if self.at is None else datetime.fromtimestamp(self.at, UTC).strftime("%m-%d %H:%M:%S")
        seconds = (self.detected_after_s, self.lost_s, self.back_after_s)
        detected, lost, back = ("-" if value is None else f"{value:.1f} s" for value in seconds)
        step, steps_lost = ("-" if value is None else f"{value:,}" for value in (self.step, self.steps_lost))
        return when, self.kind, step, detected, steps_lost, lost, back


TITLES = ("when (UTC)", "kind", "at step", "detected after", "steps lost", "time lost", "back after")


@dataclass(frozen=True)
class TimeFacts:
    """What is told."""

    seconds: Mapping[str, float]
    """{class: s}, of all SIGNS."""
    meanings: Mapping[str, str]
    incidents: Sequence[IncidentRow]

    @property
    def shares(self) -> list[tuple[str, float, float, str]]:
        """(class, share, s, meaning), in order; classes without time are left out."""
        wall, spent = sum(self.seconds.values()), [name for name in SIGNS if self.seconds[name] > 0]
        return [(name, self.seconds[name] / wall, self.seconds[name], self.meanings[name]) for name in spent]


def duration_text(seconds: float) -> str:
    """3 h 05 min, 4 min 07 s, 12.3 s."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def terminal_lines(facts: TimeFacts) -> list[str]:
    """A bar, a line for each class, and the incidents."""
    wall = sum(facts.seconds.values())
    if not wall:
        return ["no time is recorded"]
    lines = [f"goodput {facts.seconds['compute'] / wall:.1%} of {wall:,.1f} s", bar(facts)]
    for name, share, seconds, meaning in facts.shares:
        lines.append(f"  {SIGNS[name]} {name:<11}{share:>7.1%}{seconds:>12,.1f} s  {meaning}")
    if not facts.incidents:
        return [*lines, "no incident"]
    rows = [TITLES, *(row.cells() for row in facts.incidents)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(TITLES))]
    texts = ["what", *(_short(row.what) for row in facts.incidents)]
    for row, text in zip(rows, texts, strict=True):
        lines.append("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=True)), text]))
    return lines


def bar(facts: TimeFacts) -> str:
    """BAR characters, each class as many as its share (largest remainders)."""
    exact = {name: BAR * share for name, share, _, _ in facts.shares}
    counts = {name: int(length) for name, length in exact.items()}
    rest = BAR - sum(counts.values())
    for name in sorted(exact, key=lambda name: counts[name] - exact[name])[:rest]:
        counts[name] += 1
    return "".join(SIGNS[name] * counts[name] for name in counts)


def svg_bar(facts: TimeFacts, width: int = 1040, height: int = 34) -> str:
    """One SVG element: a stacked bar, a title on each part."""
    parts, x = [], 0.0
    for name, share, seconds, _ in facts.shares:
        place = f'x="{x:.2f}" width="{share * width:.2f}" y="0" height="{height}"'
        title = f"<title>{escape(name)}: {share:.1%}, {seconds:,.1f} s</title>"
        parts.append(f'<rect class="time {escape(name)}" {place}>{title}</rect>')
        x += share * width
    head = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="wall time by class">'
    return f"{head}{''.join(parts)}</svg>"


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."
