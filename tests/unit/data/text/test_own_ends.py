"""An exported tokenizer ends texts by itself as training did, and once."""

from __future__ import annotations

from typing import Any

from fakes import make_tokenizer

from raysft.data.records import Conversation, Message
from raysft.data.text.own_ends import with_own_ends
from raysft.data.text.pairs import encode_answers
from raysft.data.text.tokenizer import template_for


def test_the_exported_tokenizer_ends_texts_as_they_were_trained() -> None:
    tokenizer = make_tokenizer()
    template = template_for("tokenizer", tokenizer, is_needed=False)
    pair = Conversation(1, (Message("user", "one"), Message("assistant", "two words")))
    how: dict[str, Any] = {"train_on": "all", "max_tokens": 100, "over_long": "drop"}
    ((trained,),) = encode_answers([pair], tokenizer, template, "matched", **how)
    plain = tokenizer("two words").input_ids
    ended = with_own_ends(tokenizer)
    assert [*ended("one").input_ids, *ended("two words").input_ids] == trained.input_ids.tolist()
    assert ended("two words").input_ids == [*plain, tokenizer.eos_token_id]
    assert with_own_ends(ended)("two words").input_ids == [*plain, tokenizer.eos_token_id], "once is enough"
