"""Command lines that cannot be read."""

from __future__ import annotations

import pytest
from commands import raysft


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((), "required: VERB"),
        (("trian", "r.yaml"), "'train'"),
        (("train",), "required: recipe"),
        (("train", "r.yaml", "--sets", "a=b"), "--sets"),
        (("preview", "r.yaml", "--num", "0"), "from 1 on"),
        (("preview", "r.yaml", "--num", "-3"), "'-3'"),
        (("tokenizer",), "required: ACTION"),
        (("tokenizer", "train", "a.jsonl"), "--out"),
        (("tokenizer", "train", "a.jsonl", "--out", "t", "--format", "alpacca"), "'alpaca'"),
        (("tokenizer", "train", "a.jsonl", "--out", "t", "--vocab-size", "many"), "'many'"),
    ],
)
def test_a_command_line_that_cannot_be_read(capsys, arguments: tuple[str, ...], word: str) -> None:
    ran = raysft(capsys, *arguments)
    assert ran.code == 2
    assert word in ran.err
    assert ran.err.startswith("usage: raysft")
