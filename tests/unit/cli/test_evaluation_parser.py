"""Verbs of two words, and options that are no options."""

from __future__ import annotations

import pytest

from raysft.cli.evaluation_parser import joined
from raysft.cli.evaluation_verbs import fairness
from raysft.cli.parser import parser
from raysft.errors import UserError


def test_two_words_are_one_verb_and_a_recipe_stays_a_recipe() -> None:
    assert joined(["evaluate", "human", "s.db"]) == ["evaluate human", "s.db"]
    assert joined(["evaluate", "harness", "r"]) == ["evaluate harness", "r"]
    assert joined(["evaluate", "recipe.yaml"]) == ["evaluate", "recipe.yaml"]
    assert joined(["evaluate"]) == ["evaluate"]
    assert joined(["train", "human"]) == ["train", "human"]


@pytest.mark.parametrize(
    "wrong",
    [
        ["s.db", "--answers", "a.jsonl"],
        ["s.db", "--answers", "=a"],
        ["s.db", "--items", "-1"],
        ["s.db", "--mode", "x"],
        [],
    ],
)
def test_what_is_no_option_is_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(["evaluate human", *wrong])
    assert ended.value.code == 2
    assert "usage: raysft evaluate human" in capsys.readouterr().err


def test_what_would_be_passed_over_beside_an_exchange_is_refused() -> None:
    arguments = ["evaluate", "fairness", "q.jsonl", "--swap", "t.jsonl", "--out", "o.jsonl", "--by", "group"]
    with pytest.raises(UserError) as told:
        fairness(parser().parse_args(joined(arguments)))
    assert "--swap with --by" in told.value.got
