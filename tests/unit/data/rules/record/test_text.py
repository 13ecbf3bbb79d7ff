from __future__ import annotations

import json
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from raysft.data.records import Conversation, Message
from raysft.data.rules.record.text import length_hits, normalise, repetition, special_token_pattern, symbol_ratio
from raysft.recipe.cleaning import Length

CODE = "def f(x):\n\tif x:\n        return [\n            1,  2,\n        ]\n\n\nclass A:\n    pass"
FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
HEART = "\u2764\ufe0f\u200d\U0001f525"
ENGLAND = "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"


@pytest.mark.parametrize(
    "text",
    [
        CODE,
        "| a   | b |\n|-----|---|",
        FAMILY,
        HEART,
        ENGLAND,
        "\U0001f44d\U0001f3fd",
        "क्\u200dष क्\u200cष",  # Hindi: the joiners choose the written form
        "می\u200cخواهم",  # Persian: "I want"
        "ภาษา\u200bไทย",  # Thai: a word border
        "你好，世界！\n\n再见",
        "naïve café",
        "",
    ],
)
def test_clean_text_is_left_alone(text: str) -> None:
    assert normalise(text) == text


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("cafe\u0301", "café"),
        ("e\u200b\u0301", "é"),
        ("a\r\nb\rc\u2028d\u0085e", "a\nb\nc\nd\ne"),
        ("\ufeffhello\u200b wor\u00adld\u2060", "hello world"),
        ("a\x00b\x07c\x1b[0m\x7f\x9f", "abc[0m"),
        ("a\tb", "a\tb"),
        ("x = 1   \n    y = 2\t\n", "x = 1\n    y = 2"),
        ("\n\n  indented", "  indented"),
        ("a\n\n\n\n\n\nb", "a\n\n\nb"),
        ("a\n \n \n \n \nb", "a\n\n\nb"),
        ("字\u3000\u3000\n字", "字\n字"),
        ("pass\u200dword", "password"),
        ("中\u200d文", "中文"),
        (FAMILY[0] + "\u200d!", FAMILY[0] + "!"),
        ("hi\U000e0041\U000e0042", "hi"),  # invisible tag letters carry hidden prompts
        ("bad \ud800", "bad \ufffd"),
    ],
)
def test_normalise_mends(text: str, clean: str) -> None:
    assert normalise(text) == clean


def test_nfkc_is_for_those_who_ask() -> None:
    assert normalise("ｆｕｌｌ １２３ x²") == "ｆｕｌｌ １２３ x²"
    assert normalise("ｆｕｌｌ １２３ x²", "NFKC") == "full 123 x2"


NASTY = st.text(
    st.sampled_from("ab \t\n\r\x00\x0b\u0301\u200b\u200c\u200d\u2028\ufeff\u0915\u094d\u0e01\U0001f468\ufe0f字\ud800")
)


@settings(max_examples=300, deadline=None)
@example("\u0301\u200b\u094d\u200c", "NFC")  # the marks change places, and the joiner follows another one
@given(st.one_of(NASTY, st.text(), st.text(st.characters(codec=None))), st.sampled_from(["NFC", "NFKC"]))
def test_normalise_is_idempotent_and_keeps_what_can_be_seen(text: str, form: str) -> None:
    once = normalise(text, form)  # type: ignore[arg-type]
    assert normalise(once, form) == once  # type: ignore[arg-type]
    assert unicodedata.is_normalized(form, once)  # type: ignore[arg-type]
    assert not any(unicodedata.category(c) == "Cc" and c not in "\n\t" for c in once)
    assert "\n\n\n\n" not in once
    assert not any(line != line.rstrip() for line in once.split("\n"))

    def letters(any_text: str) -> Counter[str]:
        return Counter(c for c in unicodedata.normalize("NFKD", any_text) if unicodedata.category(c)[0] in "LNPS")

    expected = letters(text)
    expected["\ufffd"] += sum("\ud800" <= c <= "\udfff" for c in text)
    assert letters(once) == +expected


def duplicate_lines(text: str) -> float:
    return repetition(text)["duplicate_lines"]


def top_ngram(text: str) -> float:
    return repetition(text)["top_ngram"]


def talk(*contents: str, roles: tuple[str, ...] = ("user", "assistant")) -> Conversation:
    return Conversation(1, tuple(Message(roles[i % len(roles)], text) for i, text in enumerate(contents)))


@pytest.mark.parametrize(
    ("conversation", "kinds"),
    [
        (talk("hello there", "fine"), []),
        (talk("hi", "fine"), ["prompt_too_short"]),
        (talk("hello there", " \n a \n"), ["answer_too_short"]),
        (talk("h" * 21, "a" * 11), ["prompt_too_long", "answer_too_long"]),
        (talk("你好吗朋友", "很好"), []),
        (talk("hello", "x" * 99, "again", "fine"), ["prompt_too_long"]),
        (talk("fine", roles=("text",)), []),
        (talk("f", roles=("text",)), ["answer_too_short"]),
    ],
)
def test_length(conversation: Conversation, kinds: list[str]) -> None:
    rule = Length(rule="length", min_prompt_chars=5, max_prompt_chars=20, min_answer_chars=2, max_answer_chars=10)
    assert [kind for kind, _ in length_hits(conversation, rule)] == kinds


def test_a_tool_call_is_an_answer() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": {}}}
    conversation = Conversation(1, (Message("user", "what?"), Message("assistant", "", tool_calls=(call,))))
    assert length_hits(conversation, Length(rule="length")) == []


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("", 0),
        ("one line", 0),
        ("a\nb\nc", 0),
        ("ab\nab", 0.5),
        ("ab\n\n\n  ab\ncd\nab", 0.5),
        ("你好\n你好\n你好", 2 / 3),
    ],
)
def test_duplicate_lines(text: str, share: float) -> None:
    assert duplicate_lines(text) == pytest.approx(share)


def test_top_ngram() -> None:
    assert top_ngram("") == top_ngram("one two") == top_ngram("a quite normal sentence without any loops") == 0
    assert top_ngram("I love you. " * 10) == pytest.approx(0.9)
    assert top_ngram("I love you. I love you.") == 0  # twice is no pattern
    assert top_ngram("no " * 100) == 1
    assert top_ngram("我爱你们呀！" * 10) == pytest.approx(0.9)
    assert top_ngram("今天天气很好，我们一起去公园散步，然后回家吃饭。") == 0
    assert top_ngram("สวัสดี" * 20) > 0.3


def test_loops_of_whole_sentences() -> None:
    sentence = "The quick brown fox jumps over the lazy dog while nobody in the village looks at it. "
    assert repetition(sentence)["duplicate_ngrams"] == 0
    assert repetition(sentence * 4)["duplicate_ngrams"] == pytest.approx(0.75)
    assert repetition("春天来了，公园里的花都开了，孩子们在草地上快乐地奔跑和唱歌。" * 5)[
        "duplicate_ngrams"
    ] == pytest.approx(0.8)


@given(st.lists(st.sampled_from("abc"), max_size=80), st.booleans())
def test_duplicate_ngrams_cover_what_stood_before(letters: list[str], loop: bool) -> None:
    words = letters * 3 if loop else letters
    grams = [words[i : i + 10] for i in range(len(words) - 9)]
    covered = {i + k for i, gram in enumerate(grams) if gram in grams[:i] for k in range(10)}
    found = repetition(" ".join(words))["duplicate_ngrams"]
    assert found == pytest.approx(len(covered) / max(1, len(words)))


def test_repetition_takes_linear_time() -> None:
    assert repetition("word " * 100_000)["top_ngram"] == 1
    assert repetition(" ".join(map(str, range(100_000))))["duplicate_ngrams"] == 0


@pytest.mark.parametrize(
    ("text", "share"),
    [("", 0), ("abc 123\n", 0), ("a!b?", 0.5), ("你好，世界。", 1 / 3), ("नमस्ते", 0), ("🙂ab", 1 / 3), ("____", 1)],
)
def test_symbol_ratio(text: str, share: float) -> None:
    assert symbol_ratio(text) == pytest.approx(share)


@given(st.text())
def test_symbol_ratio_counts_characters(text: str) -> None:
    symbols = [c for c in text if unicodedata.category(c)[0] not in "LMN" and not c.isspace()]
    assert symbol_ratio(text) == pytest.approx(len(symbols) / max(1, len(text)))


def test_the_longest_special_token_is_found() -> None:
    pattern = special_token_pattern(["<|im|>", "", "<|im|>x", "[INST]"])
    assert pattern is not None
    assert pattern.findall("a <|im|>x <|im|> [INST] [inst]") == ["<|im|>x", "<|im|>", "[INST]"]
    assert special_token_pattern(["", ""]) is None


@pytest.mark.shared
def test_sums_that_repeat_words_are_no_loops(shared_data: Path) -> None:
    lines = (shared_data / "gsm8k_train.jsonl").read_text("utf-8").splitlines()
    answers = [json.loads(line)["answer"] for line in lines]
    refused = sum(max(repetition(answer).values()) > 0.3 for answer in answers)
    assert refused < 0.002 * len(answers)
    loops = [
        f"{answer} {' '.join(answer.split()[-8:])}" + f" {' '.join(answer.split()[-8:])}" * 20
        for answer in answers[:200]
    ]
    assert all(max(repetition(loop).values()) > 0.3 for loop in loops)
