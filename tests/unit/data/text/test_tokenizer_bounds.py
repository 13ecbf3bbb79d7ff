"""A tokenizer's files are somebody else's: what they may cost is bounded, with an error that says what to do."""

from __future__ import annotations

import copy
import json

import pytest
from chats import tokenizer_of
from tokenizers import Regex, normalizers, pre_tokenizers

from raysft.data.records import Conversation, Message
from raysft.data.text.chat import encode
from raysft.data.text.tokenizer import load_tokenizer, template_for
from raysft.errors import ModelError


def saved(tmp_path, change) -> str:
    tokenizer = copy.deepcopy(tokenizer_of("chatml, gpt2"))
    change(tokenizer.backend_tokenizer)
    tokenizer.save_pretrained(tmp_path)
    return str(tmp_path)


@pytest.mark.parametrize(
    "normalizer",
    [
        normalizers.Replace("a", "b" * 20_000),
        normalizers.Sequence([normalizers.Replace(letter, "abcde" * 4) for letter in "abcd"]),
        normalizers.Prepend("x" * 20_000),
    ],
)
def test_replacements_that_grow(tmp_path, normalizer):
    def change(backend):
        backend.normalizer = normalizer

    with pytest.raises(ModelError, match="makes long texts of short ones"):
        load_tokenizer(saved(tmp_path, change))


def splitting(tmp_path, expression: str) -> str:
    def change(backend):
        backend.pre_tokenizer = pre_tokenizers.Split(Regex(expression), "isolated")

    return saved(tmp_path, change)


@pytest.mark.parametrize("expression", [r"(a+)+$", r"( +)+$"])
def test_expressions_that_do_not_end(tmp_path, expression):
    location = splitting(tmp_path, expression)
    with pytest.raises(ModelError, match="does not come to an end"):
        load_tokenizer(location)


def test_a_text_that_an_expression_does_not_end_on(tmp_path):
    tokenizer = load_tokenizer(splitting(tmp_path, "(z+)+$"))
    talk = Conversation(1, (Message("user", "z" * 60 + "!"), Message("assistant", "yes")))
    how = {"train_on": "all", "max_tokens": 999, "over_long": "drop"}
    template = template_for("tokenizer", tokenizer)
    with pytest.raises(ModelError, match="does not come to an end"):
        encode([talk], tokenizer, template, **how)


def test_a_damaged_file_is_told(tmp_path):
    location = saved(tmp_path, lambda backend: None)
    state = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
    state["model"]["merges"] = [["no", "such"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    with pytest.raises(ModelError, match="cannot load a tokenizer"):
        load_tokenizer(location)
