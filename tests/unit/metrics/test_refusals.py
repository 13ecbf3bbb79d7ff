"""Refusals, and what sounds like one."""

from __future__ import annotations

import pytest

from raysft.metrics.base import Answer
from raysft.metrics.refusals import refuses


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I’m sorry, but no.",
        "As an AI language model, I have no opinion.",
        "I cannot provide that.",
        "Unfortunately, I am unable to do this.",
        "对不起，我不能帮您。",
        "很抱歉，我无法回答这个问题",
        "作为一个AI语言模型，我没有感情。",
        "抱歉，但这不行",
        "我不能为您提供这方面的信息",
    ],
)
def test_these_refuse(text: str) -> None:
    assert refuses(Answer("q", text, ""))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Sure, here it is.",
        "She said she was sorry and could not come.",
        "Basic assistants help.",
        "The area has an aim.",
        "我不能没有你",
        "无法无天是一个成语",
        "word " * 100 + "I cannot provide that.",
    ],
)
def test_these_do_not(text: str) -> None:
    assert not refuses(Answer("q", text, ""))
