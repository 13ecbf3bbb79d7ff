"""Lines for a person: harmless to a terminal, and above the bars that are on it at that moment."""

from __future__ import annotations

import logging
import re
import sys
from typing import TextIO

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """A text that a terminal only shows: control characters and changes of direction as `\\u001b`.

    Line breaks and tabs stay. What comes from data, file names and templates goes to a terminal through this.
    """
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to what sys.stderr is now: bars put something of their own in its place while they are shown."""

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        self.setStream(sys.stderr)
        super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Handler."""
        return printable(super().format(record))
