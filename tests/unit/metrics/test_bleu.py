"""Which tokenizer."""

from __future__ import annotations

import pytest

from raysft.metrics.base import Answer
from raysft.metrics.bleu import BLEU, tokenizer_of
from raysft.metrics.estimate import estimate


@pytest.mark.parametrize(
    ("texts", "name"),
    [
        (["The cat sat.", "Le chat était là."], "13a"),
        (["The word 猫 means cat in the Chinese language."], "13a"),
        (["今天天气很好。", "It is fine today."], "zh"),
        (["今日はいい天気です"], "char"),
        (["สวัสดี"], "char"),
        (["", "12"], "13a"),
        (["안녕하세요 세계"], "13a"),
    ],
)
def test_the_tokenizer_follows_from_the_references(texts: list[str], name: str) -> None:
    assert tokenizer_of(texts) == name


def test_a_chinese_answer_that_is_nearly_right_is_not_worth_nothing() -> None:
    found = estimate(BLEU, [Answer("q", "今天天气非常好，我们去公园。", "今天天气很好，我们去公园吧。")])
    assert found.value > 40
    assert "tok:zh" in found.how
