r"""A talk written as one text, `\n\nHuman: ...\n\nAssistant: ...`, as hh-rlhf and Nectar write it. Pure."""

from __future__ import annotations

import re

from raysft.data.records import Message, plain_message

_SPEAKER = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
SPOKEN = "`{column}` holds a talk (Human:, Assistant:): read as turns"
"""What is told of it."""
_ROLES = {"Human": "user", "Assistant": "assistant"}


def spoken_turns(text: str) -> list[Message]:
    """The turns of a text that Human begins and that Assistant answers; none of any other text.

    A last turn of Assistant that says nothing waits for an answer: it stands there, empty.
    """
    _, *parts = _SPEAKER.split(text)
    speakers, said = parts[::2], parts[1::2]
    if "Assistant" not in speakers or speakers[0] != "Human" or not text.lstrip().startswith("Human:"):
        return []
    return [plain_message(_ROLES[name], words.strip()) for name, words in zip(speakers, said, strict=True)]
