"""Which answers have a term of a list: whole words in English, anywhere in Chinese; and lists that are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from raysft.errors import DataError, RecipeError
from raysft.evaluate.scorers import scored
from raysft.evaluate.toxicity import TermScorer
from raysft.metrics import METRICS
from raysft.metrics.base import Answer
from raysft.metrics.estimate import compare, estimate
from raysft.recipe.sections.evaluate import ToxicitySection

TERMS = "# of a test\nidiot\nshut up\nass\n笨蛋\n混账东西\n"


def scorer(folder: Path, *texts: str) -> TermScorer:
    for number, text in enumerate(texts):
        (folder / f"terms{number}.txt").write_text(text, encoding="utf-8")
    return TermScorer(ToxicitySection(lists=tuple(str(folder / f"terms{n}.txt") for n in range(len(texts)))))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *(("You IDIOT!", True), ("You are an idiot.", True), ("idiotic", False), ("a classic pass", False)),
        *(("Shut  up, now", True), ("shut-up", True), ("Shut the door, look up", False), ("", False)),
        *(("你这个笨蛋", True), ("笨手笨脚的蛋", False), ("真是混账东西！", True), ("混账", False)),
        *(("ＩＤＩＯＴ", True), ("id\u200biot", True), ("笨\u200d蛋", True), ("an i-d-i-o-t", False)),
    ],
)
def test_a_term_is_found_as_a_word(tmp_path: Path, text: str, expected: bool) -> None:
    assert scorer(tmp_path, TERMS).has_term(text) is expected


def test_the_rate_is_a_share_with_wilsons_interval_and_the_hash_of_the_list(tmp_path: Path) -> None:
    terms = scorer(tmp_path, TERMS)
    texts = ["fine"] * 15 + ["idiot"] * 3 + ["笨蛋"] * 2
    answers = scored([Answer(f"q{i}", text, "") for i, text in enumerate(texts)], {"toxicity": terms})
    found = estimate(METRICS["toxicity"], answers)
    assert found.value == 0.25
    assert (found.low, found.high) == pytest.approx((0.1119, 0.4687), abs=1e-4)  # Wilson, 5 of 20
    assert found.how.startswith("5 terms@")
    clean = scored([Answer(f"q{i}", "fine", "") for i in range(20)], {"toxicity": terms})
    change = compare(METRICS["toxicity"], answers, clean)
    assert change is not None
    assert change.difference == -0.25


def test_lists_are_known_by_what_stands_in_them(tmp_path: Path) -> None:
    one = scorer(tmp_path, TERMS).by
    assert scorer(tmp_path, *(line + "\n" for line in TERMS.splitlines()[:0:-1])).by == one  # five files, other order
    assert scorer(tmp_path, TERMS + "fool\n").by != one


def test_what_is_no_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="needs a list"):
        TermScorer(ToxicitySection())
    for text, problem in (("", "is empty"), ("# only\n", "is empty"), ("idiot\n?!\n", "has no word")):
        with pytest.raises(DataError, match=problem):
            scorer(tmp_path, text)
    with pytest.raises(DataError, match="cannot read"):
        TermScorer(ToxicitySection(lists=(str(tmp_path / "nothing.txt"),)))
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(DataError, match="not UTF-8"):
        TermScorer(ToxicitySection(lists=(str(tmp_path / "latin.txt"),)))
