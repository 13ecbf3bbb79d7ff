"""All texts of a conversation are reached: candidates, arguments, whatever is rewritten."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter

from raysft.data.records import Candidate, Conversation, Message
from raysft.data.rules.record.cleaner import Cleaned, Cleaner
from raysft.recipe.cleaning import Rule

TOKENS = ["<|im_start|>", "<|im_end|>"]


VISA = "4532015112830366"


def rule(name: str, **fields: Any) -> Rule:
    adapter: TypeAdapter[Rule] = TypeAdapter(Rule)
    return adapter.validate_python({"rule": name, **fields})


def apply(rules: Sequence[Rule], conversation: Conversation, seed: int = 0) -> Cleaned:
    return Cleaner(rules, seed=seed, special_tokens=TOKENS).apply(conversation)


def test_flags_candidates_and_tool_calls_survive_masking() -> None:
    arguments = {"to": ["a@b.org", 5, None, True], "a@c.org": {"card": int(VISA), "n": 1.5}, "note": 'say "hi"'}
    call = {"id": "1", "type": "function", "function": {"name": "send", "arguments": arguments}}
    conversation = Conversation(
        1,
        (
            Message("system", "I am a@b.org"),
            Message("user", "Mail a@b.org", train=None),
            Message("assistant", "", train=False, tool_calls=(call,)),
            Message("tool", "sent to a@b.org", tool_call_id="1"),
            Message("assistant", "Sent to a@b.org", train=True),
        ),
        candidates=(
            Candidate((Message("assistant", "Sent to a@b.org", train=True),), 1.0),
            Candidate((Message("assistant", "No, x@y.org"),), 0.0),
        ),
    )
    result = apply([rule("pii")], conversation)
    (fixed,) = result.conversations
    assert [m.content for m in fixed.messages] == [
        "I am <EMAIL>", "Mail <EMAIL>", "", "sent to <EMAIL>", "Sent to <EMAIL>",
    ]  # fmt: skip
    assert [m.train for m in fixed.messages] == [None, None, False, None, True]
    assert fixed.messages[2].tool_calls[0]["function"] == {
        "name": "send",
        "arguments": {
            "to": ["<EMAIL>", 5, None, True],
            "<EMAIL>": {"card": "<BANK_CARD>", "n": 1.5},
            "note": 'say "hi"',
        },
    }
    assert [c.messages[0].content for c in fixed.candidates] == ["Sent to <EMAIL>", "No, <EMAIL>"]
    assert arguments["to"] == ["a@b.org", 5, None, True]  # the given record is as it was
    assert Counter(result.findings) == {"pii.email": 7, "pii.bank_card": 1}
    assert "@" not in json.dumps([m.tool_calls for m in fixed.messages])
