"""The code of an answer, by a rule that stands in the guide. Pure."""

from __future__ import annotations

import re

_FENCE = re.compile(
    r"^[ \t]*(```+|~~~+)[ \t]*([\w+#.-]*)[^\n]*\n(.*?)(?:^[ \t]*\1[`~]*[ \t]*$|\Z)", re.DOTALL | re.MULTILINE
)
_LANGUAGES = frozenset(("", "python", "python3", "py"))
_DEFINES = re.compile(r"^(?:async[ \t]+def|def|class)[ \t]", re.MULTILINE)


def code_of(text: str) -> str:
    """The last fenced block of Python (or of no language) that defines a function or a class, else the last such
    block; without any block the whole text. A fence that is never closed ends with the text."""
    blocks = [body for _, language, body in _FENCE.findall(text) if language.lower() in _LANGUAGES]
    defining = [body for body in blocks if _DEFINES.search(body)]
    return str((defining or blocks or [text])[-1])
