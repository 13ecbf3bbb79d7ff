"""What an answer stands beside: another record's answer to the same prompt, by the texts alone."""

from __future__ import annotations

from typing import Any

from raysft.data.records import Conversation, Message, Refusal, judged
from raysft.data.text.atoms import split_atom
from raysft.data.text.pairs import encode_answers
from raysft.data.text.tokenizer import template_for


def talk(prompt: str, answer: str, wanted: bool = True, **fields: Any) -> Conversation:
    return Conversation(1, (Message("user", prompt), Message("assistant", answer)), wanted=wanted, **fields)


def texts(tokenizers: Any, talks: list[Conversation], max_tokens: int = 400) -> list[Any]:
    tokenizer = tokenizers["chatml"]
    found = encode_answers(
        talks,
        tokenizer,
        template_for("chatml", tokenizer),
        "judged",
        train_on="all",
        max_tokens=max_tokens,
        over_long="drop",
    )
    return [
        one.reason
        if isinstance(one, Refusal)
        else {
            name: tokenizer.decode([i for i, t in zip(e.input_ids, e.target, strict=True) if t])
            for name, e in split_atom(one[0])
        }
        for one in found
    ]


def test_the_next_answer_to_another_prompt_is_taken(tokenizers: Any) -> None:
    talks = [talk("a", "1"), talk("a", "2", wanted=False), talk("b", "1"), talk("c", "3")]
    assert texts(tokenizers, talks) == [
        {"wanted": "1<|im_end|>", "mismatched": "3<|im_end|>"},  # 2 answers the same, the next 1 says the same
        {"unwanted": "2<|im_end|>", "mismatched": "1<|im_end|>"},
        {"wanted": "1<|im_end|>", "mismatched": "3<|im_end|>"},
        {"wanted": "3<|im_end|>", "mismatched": "1<|im_end|>"},
    ]
    assert texts(tokenizers, talks[:2]) == [{"wanted": "1<|im_end|>"}, {"unwanted": "2<|im_end|>"}]


def test_what_cannot_be_judged_is_refused(tokenizers: Any) -> None:
    text = Conversation(1, (Message("text", "plain"),), wanted=True)
    assert texts(tokenizers, [text, talk("a", "1", weight=2.0)]) == ["no_prompt", "weighted_answer"]
    assert judged(Conversation(1, talk("a", "1").messages)).reason == "not_judged"  # type: ignore[union-attr]
