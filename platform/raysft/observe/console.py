"""Lines for a person: they pass above the bars that are on the terminal at that moment."""

from __future__ import annotations

import logging
import sys


class StderrHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to what sys.stderr is now: bars put something of their own in its place while they are shown."""

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        self.setStream(sys.stderr)
        super().emit(record)
