"""Lines of the log stand above what is drawn on the terminal."""

from __future__ import annotations

import io
import logging

import pytest

from raysft.observe.console import StderrHandler


def test_lines_pass_above_the_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler that keeps the stream it was made with writes into the middle of the bars."""
    made_with, now = io.StringIO(), io.StringIO()
    monkeypatch.setattr("sys.stderr", made_with)
    handler = StderrHandler()
    monkeypatch.setattr("sys.stderr", now)
    handler.emit(logging.makeLogRecord({"msg": "trial 3 finished"}))
    assert (made_with.getvalue(), now.getvalue()) == ("", "trial 3 finished\n")
