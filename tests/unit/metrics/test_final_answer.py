"""Final results, by hand: as GSM8K, MATH and models of all kinds write them."""

from __future__ import annotations

from fractions import Fraction

import pytest

from raysft.metrics.base import Answer
from raysft.metrics.final_answer import final_answer, is_same_result

RIGHT_72 = (
    *("48+24 = <<48+24=72>>72 clips.\n#### 72", "#### 72", "####72", "####  72.00\n", "#### $72", "#### 72 clips."),
    *(
        "The answer is 72.",
        "**72**",
        "so 72!",
        "72%",
        "\\boxed{72}",
        "$\\boxed{72}$ clips",
        "\\boxed{\\text{72 clips}}",
    ),
    *(
        "\\boxed{x = 72}",
        "$$\\boxed{72\\%}$$",
        "答案是７２。",
        "共有72个",
        "答案:72元",
        "= 144/2",
        "\\frac{144}{2}",
        "7.2e1",
    ),
    *("\\boxed{\\dfrac{144}{2}}", "first 5, then 72", "It is 72 (not -72)"[:8], "\\boxed{3} no, \\boxed{72}", "+72"),
)


@pytest.mark.parametrize("text", RIGHT_72)
def test_the_same_result_in_many_forms(text: str) -> None:
    assert final_answer(text) == 72
    assert is_same_result(Answer("q", text, "He has 70+2.\n#### 72"))


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1,000,000", Fraction(10**6)),
        ("1{,}000", Fraction(1000)),
        ("costs $1,234.50.", Fraction("1234.5")),
        ("-5", Fraction(-5)),
        ("−5", Fraction(-5)),
        ("-$5", Fraction(-5)),
        ("3-5", Fraction(5)),
        ("between 3 and 4.", Fraction(4)),
        ("3/4", Fraction(3, 4)),
        ("6\\frac{1}{2}", Fraction(13, 2)),
        (".5", Fraction(1, 2)),
        ("½", Fraction(1, 2)),
        ("6½ cups", Fraction(13, 2)),
        ("6\\frac12", Fraction(13, 2)),
        ("10\u202f000", Fraction(10000)),
        ("1\u00a0234\u00a0567.5", Fraction("1234567.5")),
        ("\\boxed{{5}}", Fraction(5)),
        ("1e3", Fraction(1000)),
        ("v2 has 10x", Fraction(10)),
        ("1, 2, 3", Fraction(3)),
        ("7/0", Fraction(7)),
        ("#### no result", "noresult"),
        ("\\boxed{2\\sqrt{3}}", "2\\sqrt{3}"),
        ("\\boxed{(3, 4)}", "(3,4)"),
        ("nothing", None),
        ("", None),
        ("####", None),
        ("\\boxed{5", Fraction(5)),
        ("9" * 6000, None),
        ("first 7, then " + "1" * 100_000, Fraction(7)),
        ("7/" + "3" * 5000, None),
        ("\\boxed{" + "9" * 5000 + "}", "9" * 5000),
        (" " * 50_000 + "x", None),
    ],
)
def test_what_a_text_comes_to(text: str, number: Fraction | str | None) -> None:
    assert final_answer(text) == number


@pytest.mark.parametrize(
    ("said", "wanted", "right"),
    [
        ("#### 73", "#### 72", False),
        ("no number", "#### 72", False),
        ("-72", "72", False),
        ("720", "72", False),
        ("0.72", "72", False),
        ("\\boxed{(1, 4)}", "\\boxed{(3, 4)}", False),
        ("\\boxed{( 3,4 )}", "\\boxed{(3, 4)}", True),
        ("B", "#### B", True),
        ("#### b.", "#### B", True),
        ("C", "#### B", False),
        ("yes", "yes", True),
        ("yes", "no", False),
        ("", "", False),
        ("", "####", False),
    ],
)
def test_right_and_wrong(said: str, wanted: str, right: bool) -> None:
    assert is_same_result(Answer("q", said, wanted)) is right


def test_a_letter_in_a_box_is_the_letter_of_a_reference() -> None:
    for text in ("\\boxed{B}", "So it is \\boxed{\\text{B}}.", "#### b", "B"):
        assert is_same_result(Answer("q", text, "B")), text
        assert not is_same_result(Answer("q", text, "C")), text
    assert not is_same_result(Answer("q", "", ""))
    assert not is_same_result(Answer("q", "\\boxed{}", " "))
