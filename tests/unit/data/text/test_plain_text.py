"""Plain text: the special tokens that the tokenizer's own post-processor would add, and one end of text."""

from __future__ import annotations

import copy

import pytest
from chats import tokenizer_of
from tokenizers import processors

from raysft.data.records import Conversation, Message
from raysft.data.text.chat import encode
from raysft.data.text.tokenizer import template_for


def adding(pair: str, form: str):
    """A tokenizer whose post-processor puts these special tokens around a text ($A)."""
    tokenizer = copy.deepcopy(tokenizer_of(pair))
    named = [word for word in form.split() if word != "$A"]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=form, special_tokens=[(word, tokenizer.convert_tokens_to_ids(word)) for word in named]
    )
    return tokenizer


def encoded(text: str, tokenizer, **how):
    how = {"train_on": "all", "max_tokens": 999, "over_long": "drop", **how}
    talk = Conversation(1, (Message("text", text),))
    (found,) = encode([talk], tokenizer, template_for("chatml", tokenizer), **how)
    return found


@pytest.mark.parametrize("pair", ["llama2, first", "llama2, prepend", "vicuna, unigram"])
@pytest.mark.parametrize("form", ["<s> $A", "<s> $A </s>", "$A </s>", "$A"])
def test_a_text_has_what_the_tokenizer_adds_and_one_end(pair, form):
    if "<s>" in form and pair == "vicuna, unigram":
        pytest.skip("it has no <s>")
    tokenizer = adding(pair, form)
    (example,) = encoded("The sea is wide.", tokenizer)
    theirs = tokenizer("The sea is wide.").input_ids
    end = [] if theirs[-1] == tokenizer.eos_token_id else [tokenizer.eos_token_id]
    assert example.input_ids.tolist() == theirs + end
    assert example.input_ids.tolist().count(tokenizer.eos_token_id) == 1
    assert example.target.tolist() == [0.0] + [1.0] * (len(example.input_ids) - 1)


@pytest.mark.parametrize("form", ["<s> $A", "<s> $A </s>", "$A </s>"])
@pytest.mark.parametrize("text", ["<s>The sea</s>", "<s>The sea", "The sea</s>", "a</s>b</s>\n"])
def test_tokens_that_stand_in_a_text_are_not_added_again(text, form):
    tokenizer = adding("llama2, first", form)
    (example,) = encoded(text, tokenizer)
    ids = example.input_ids.tolist()
    first = tokenizer.bos_token_id if "<s>" in form or text.startswith("<s>") else None
    assert ids.count(tokenizer.bos_token_id) == (first is not None)
    assert first is None or ids[0] == first
    assert ids.count(tokenizer.eos_token_id) == max(1, text.count("</s>"))
    whole = tokenizer.decode(ids)
    assert whole.rstrip().endswith("</s>")


def test_the_first_word_is_trained_behind_a_begin_of_text():
    tokenizer = adding("llama2, first", "<s> $A")
    (example,) = encoded("Blue.", tokenizer)
    assert tokenizer.decode(example.input_ids[example.target > 0]).strip() == "Blue.</s>"


def test_windows_of_a_long_text_add_nothing():
    tokenizer = adding("llama2, first", "<s> $A </s>")
    parts = encoded("The sea is wide. " * 20, tokenizer, max_tokens=32, over_long="split")
    ids = [token for part in parts for token in part.input_ids.tolist()]
    assert ids.count(tokenizer.bos_token_id) == ids.count(tokenizer.eos_token_id) == 1
    (cut,) = encoded("The sea is wide. " * 20, tokenizer, max_tokens=32, over_long="truncate")
    assert cut.input_ids.tolist() == parts[0].input_ids.tolist()
    assert cut.removed["text"] > 0
