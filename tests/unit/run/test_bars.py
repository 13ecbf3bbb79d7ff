"""A bar is one line of a terminal of any width, updated in place; in a file there is none."""

from __future__ import annotations

import io
import re

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.progress import TimeElapsedColumn

from raysft.run.bars import bars

WORDS = "loss 1.2345  3,210 tokens/s  MFU 12%"
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def drawn(width: int, *whats: str, terminal: bool = True) -> str:
    """The raw text that some tasks write until they are done."""
    screen = Console(
        file=io.StringIO(), force_terminal=terminal, width=width, color_system=None, legacy_windows=False
    )
    with bars(TimeElapsedColumn(), console=screen) as shown:
        tasks = [shown.add_task(what, total=2000, text="waiting for [workers]") for what in whats]
        for done in (1, 999, 2000):
            for task in tasks:
                shown.update(task, completed=done, text=WORDS)
            shown.refresh()
    return screen.file.getvalue()  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("width", [14, 20, 33, 34, 40, 59, 60, 80, 99, 100, 200])
@pytest.mark.parametrize("whats", [("training",), ("search", "trial 1234", "preparing shards")])
def test_each_task_is_one_line_that_is_written_over(width: int, whats: tuple[str, ...]) -> None:
    raw = drawn(width, *whats)
    lines = re.split(r"[\r\n]+", _CONTROL.sub("", raw))
    assert max(map(cell_len, lines)) <= width
    frames = raw.count("\x1b[2K") / len(whats)
    assert frames >= 4
    assert raw.count("\n") <= len(whats) + frames * (len(whats) - 1), "a frame moved the screen up"
    assert "2000/2000" in lines[-2]
    assert all(what[:3] in raw for what in whats)


def test_what_there_is_room_for() -> None:
    assert "━" not in drawn(20, "training")
    assert "━" in drawn(40, "training")
    assert "loss 1.2" not in drawn(40, "training")
    assert "loss 1.2" in drawn(60, "training")
    assert WORDS in drawn(100, "training")
    assert "0:00:00" in drawn(100, "training")
    assert "[workers]" in drawn(100, "training"), "words are no markup"


def test_nothing_in_a_file() -> None:
    assert drawn(80, "training", terminal=False).strip() == ""
