"""Tokens and masks against transformers' own `apply_chat_template`: training sees the tokens that generation sees.

A bounded part in CI; `make differential` takes 320 records of each pair.
"""

from __future__ import annotations

import pytest
from chats import PAIRS, records, tokenizer_of

from raysft.data.records import Conversation, Message
from raysft.data.text.chat import Example, encode
from raysft.data.text.tokenizer import template_for

ENOUGH = pytest.mark.parametrize("count", [12, pytest.param(320, marks=pytest.mark.full)])


def conversation(messages) -> Conversation:
    return Conversation(1, tuple(Message(turn["role"], turn["content"]) for turn in messages))


def examples(name, talks, *, train_on):
    tokenizer = tokenizer_of(name)
    conversations = [conversation(messages) for messages in talks]
    how = {"train_on": train_on, "max_tokens": 10**6, "over_long": "drop"}
    results = encode(conversations, tokenizer, template_for("tokenizer", tokenizer), **how)
    assert all(not isinstance(result, tuple) or isinstance(result[0], Example) for result in results)
    return [(messages, result) for messages, result in zip(talks, results, strict=True)]


def prompt_ids(tokenizer, messages):
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)


@ENOUGH
@pytest.mark.parametrize("name", PAIRS)
def test_the_tokens_before_an_answer_are_those_of_its_prompt(name, count):
    tokenizer, pair = tokenizer_of(name), PAIRS[name]
    stops = {pair.eos, "<|im_end|>", "<end_of_turn>", "<|end|>"}
    talks = records(count, has_system=pair.has_system)
    found = examples(name, talks, train_on="last")
    assert sum(isinstance(result, tuple) for _, result in found) == count, [r for _, r in found if r is not tuple][:3]
    for messages, (example,) in found:
        prompt = prompt_ids(tokenizer, messages[:-1])
        assert example.input_ids[: len(prompt)].tolist() == prompt
        assert not example.target[: len(prompt)].any()
        trained = example.input_ids[example.target > 0].tolist()
        assert example.input_ids[len(prompt) : len(prompt) + len(trained)].tolist() == trained, "without a gap"
        assert tokenizer.convert_ids_to_tokens(trained[-1]) in stops
        assert example.straddles == 0
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        whole = tokenizer.apply_chat_template(messages, return_dict=False)
        if not example.cuts:
            assert example.input_ids.tolist() == whole
        answer = tokenizer.decode(trained, skip_special_tokens=False)
        if pair.kind not in ("wordpiece", "unigram"):
            assert messages[-1]["content"].strip() in answer
            assert text.rstrip().removesuffix("<|endoftext|>").rstrip().endswith(answer.strip())


@ENOUGH
@pytest.mark.parametrize("name", [name for name in PAIRS if "harmony" not in name])
def test_every_turn_begins_where_its_prompt_ends(name, count):
    """All turns trained: where no earlier answer was cut, each is what the model would see."""
    tokenizer, pair = tokenizer_of(name), PAIRS[name]
    for messages, (example,) in examples(name, records(count, has_system=pair.has_system, seed=1), train_on="all"):
        target = example.target.astype(bool).tolist()
        begins = [i for i in range(1, len(target)) if target[i] and not target[i - 1]]
        turns = [i for i, turn in enumerate(messages) if turn["role"] == "assistant"]
        assert len(begins) == len(turns)
        for number, (begin, turn) in enumerate(zip(begins, turns, strict=True)):
            if number == 0 or not example.cuts:
                prompt = prompt_ids(tokenizer, messages[:turn])
                assert example.input_ids[:begin].tolist() == prompt


@ENOUGH
@pytest.mark.parametrize("name", [name for name in PAIRS if name.startswith("blocks")])
def test_masks_are_those_of_generation_blocks(name, count):
    tokenizer = tokenizer_of(name)
    for messages, (example,) in examples(name, records(count, has_system=True, seed=2), train_on="all"):
        theirs = tokenizer.apply_chat_template(messages, return_assistant_tokens_mask=True, return_dict=True)
        if not example.cuts:
            assert example.input_ids.tolist() == theirs["input_ids"]
            assert example.target.astype(int).tolist() == theirs["assistant_masks"]
