"""What becomes of samples that are too long. The reference is the whole sample, token by token."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st

from raysft.data.records import Conversation, Message
from raysft.data.text.chat import encode
from raysft.data.text.tokenizer import template_for

WORDS = ("alpha", "beta", "\n\n", ":", "7 + 35 = 42", "你好", "naïve", "🙂", " ")


def run(conversations, tokenizer, *, max_tokens=10**6, over_long="drop", train_on="all"):
    template = template_for("chatml", tokenizer)
    return encode(conversations, tokenizer, template, train_on=train_on, max_tokens=max_tokens, over_long=over_long)


def talk(*turns: str, id: int = 1, muted: tuple[int, ...] = ()) -> Conversation:
    roles = ("user", "assistant")
    messages = [Message(roles[i % 2], turn, False if i in muted else None) for i, turn in enumerate(turns)]
    return Conversation(id, tuple(messages))


def test_results_are_in_order_beside_refusals(tokenizers):
    conversations = [talk("a", "x", id=3), talk("a", "\ud800", id=4), talk("a", "y" * 9, id=5)]
    (first,), refused, (last,) = run(conversations, tokenizers["chatml"])
    assert (first.sample_id, refused.reason, last.sample_id) == (3, "invalid_unicode", 5)
    for index, found in ((0, first), (2, last)):
        ((alone,),) = run([conversations[index]], tokenizers["chatml"])
        assert alone.input_ids.tolist() == found.input_ids.tolist()
        assert alone.target.tolist() == found.target.tolist()
    assert run([], tokenizers["chatml"]) == []


turns = st.lists(st.lists(st.sampled_from(WORDS), max_size=40).map(" ".join), min_size=2, max_size=8)


@pytest.mark.parametrize("train_on", ["all", "last"])
def test_nothing_trained_is_a_refusal(tokenizers, train_on):
    (refused,) = run([talk("a", "b", muted=(1,))], tokenizers["chatml"], train_on=train_on)
    assert refused.reason == "no_target_tokens"
