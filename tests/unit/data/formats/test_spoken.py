"""Talks written as one text."""

from __future__ import annotations

import pytest

from raysft.data.formats.spoken import spoken_turns

HELLO = "\n\nHuman: Hi.\n\nAssistant: Hello."


@pytest.mark.parametrize(
    ("text", "turns"),
    [
        (HELLO, [("user", "Hi."), ("assistant", "Hello.")]),
        (HELLO.lstrip(), [("user", "Hi."), ("assistant", "Hello.")]),
        (
            f"{HELLO}\n\nHuman: Why?\n\nAssistant: ",
            [("user", "Hi."), ("assistant", "Hello."), ("user", "Why?"), ("assistant", "")],
        ),
        ("\n\nHuman: a\nHuman: b\n\nAssistant: c\n\nd", [("user", "a\nHuman: b"), ("assistant", "c\n\nd")]),
        ("\n\nHuman: Hi.", []),
        ("\n\nAssistant: Hello.\n\nHuman: Hi.", []),
        ("They said:\n\nHuman: Hi.\n\nAssistant: Hello.", []),
        ("Humans: Hi.\n\nAssistant: Hello.", []),
        ("", []),
    ],
)
def test_turns_of_a_text(text: str, turns: list[tuple[str, str]]) -> None:
    assert [(message.role, message.content) for message in spoken_turns(text)] == turns
