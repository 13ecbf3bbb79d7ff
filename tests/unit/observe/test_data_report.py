"""The data report: everything of a survey is told, on the page and on a terminal; escaped; nothing fetched."""

from __future__ import annotations

import re
from typing import Any

import pytest
from html_page import Page

from raysft.data.report.bias import bias_table
from raysft.observe.data_report import aligned, render_data_report, share, share_bars, survey_lines

EVIL = "<script>alert('x')</script>&\""


def make_survey(**fields: Any) -> dict[str, Any]:
    groups = {
        name: {"records": n, "kept": n, "answer_chars": 10 * n, "quality": 0.5 * n, "labels": {"good": good}}
        for name, n, good in (("female", 100, 100), ("male", 50, 50), ("other", 3, 3))
    }
    groups["male"]["labels"] = {"good": 25, "poor": 25}
    values: dict[str, Any] = {
        "recipe": "my-data",
        "at": "2026-01-02 03:04 UTC",
        "files": 2,
        "max_tokens": 64,
        "over_long_policy": "data.over_long: drop",
        "records": 160,
        "conversations": 155,
        "kept": 153,
        "tokens": 4321,
        "target_tokens": 1234,
        "over_long": 7,
        "straddles": 0,
        "characters": 9999,
        "formats": [("labelled", 155)],
        "turns": [("2", 155)],
        "lengths": {
            "mean": 28.2,
            "quantiles": {"shortest": 3, "50%": 21, "90%": 55, "99%": 71, "longest": 88},
            "bins": [{"from": i * 20, "to": i * 20 + 20, "samples": n} for i, n in enumerate((40, 61, 33, 19))],
        },
        "languages": [("en", 140), ("zh", 15)],
        "quality": {"mean": 0.77, "bins": [0] * 10 + [5] * 10, "components": {"diversity": 0.777}},
        "pii": [("email", 17)],
        "found": [("symbols.ratio", 4)],
        "findings": [("normalise", 44)],
        "actions": {"normalise": "fix"},
        "refused": [{"reason": "malformed_json", "count": 5, "first": ["a.jsonl:3", "a.jsonl:9"]}],
        "not_read": [{"kind": "unread", "name": "messages[].mood", "count": 31}],
        "duplicates": {"exact_duplicates": 11, "near_duplicates": 13, "conflicts": 2},
        "clusters": [{"kind": "near", "size": 6, "first": "a.jsonl:17"}],
        "labels": [("good", 128), ("poor", 25)],
        "groups": {"gender": [("female", 100), ("male", 50), ("other", 3)]},
        "bias": bias_table({"gender": groups}, {"good": 128, "poor": 25}),
        "advice": ["do `this` first"],
    }
    return values | fields


EMPTY = {
    "kept": 0,
    "conversations": 0,
    "tokens": 0,
    "target_tokens": 0,
    "over_long": 0,
    "lengths": {"mean": 0, "quantiles": {}, "bins": []},
    "quality": {"mean": None, "bins": [0] * 20, "components": {}},
    "duplicates": {},
    **{name: [] for name in ("languages", "pii", "found", "findings", "clusters", "labels", "bias", "advice")},
    "groups": {},
}


def test_the_page_tells_everything() -> None:
    html = render_data_report(make_survey())
    page = Page(html)
    assert page.open == []
    for text in (
        "my-data",
        "91.2%",  # kept: 153 - 7 of 160
        "4,321",
        "28.6% of them trained",
        "7 samples are longer than data.max_tokens",
        "zh",
        "0.777",
        "e-mail addresses",
        "symbols.ratio",
        "normalise",
        "malformed_json",
        "a.jsonl:9",
        "a.jsonl:17",
        "messages[].mood",
        "exact duplicates",
        "poor",
        "below four fifths",
        "too few to judge",
        "29 CFR 1607.4(D)",
        "add {rule: pii} to data.rules",
    ):
        assert text in page.text, text
    assert "<code>this</code>" in html
    assert "data.max_tokens 64" in page.text, "the limit is marked in the chart"


@pytest.mark.parametrize(("action", "text"), [("fix", "masks it"), ("drop", "refuses such records")])
def test_what_the_recipe_does_about_personal_data(action: str, text: str) -> None:
    assert text in Page(render_data_report(make_survey(actions={"pii": action}))).text


def test_nothing_is_fetched_and_no_script_runs() -> None:
    html = render_data_report(make_survey())
    assert not {"script", "link", "img", "iframe", "object"} & set(Page(html).tags)
    assert not re.search(r"https?://|@import|url\(", html)


def test_everything_is_escaped() -> None:
    table = [(EVIL, 100)]
    group = {"records": 60, "kept": 60, "answer_chars": 60, "quality": 60.0, "labels": {EVIL: 60}}
    html = render_data_report(
        make_survey(
            recipe=EVIL,
            at=EVIL,
            over_long_policy=EVIL,
            languages=table,
            labels=table,
            groups={EVIL: table},
            pii=table,
            found=table,
            findings=table,
            quality={"mean": 0.5, "bins": [1] * 20, "components": {EVIL: 0.5}},
            refused=[{"reason": EVIL, "count": 1, "first": [EVIL]}],
            clusters=[{"kind": EVIL, "size": 2, "first": EVIL}],
            bias=bias_table({EVIL: {EVIL: group, "b": group}}, {EVIL: 60}),
            advice=[EVIL, f"`{EVIL}`"],
        )
    )
    page = Page(html)
    assert "script" not in page.tags
    assert page.text.count("<script>alert('x')</script>&\"") >= 20


def test_data_of_which_nothing_is_left_has_a_page_too() -> None:
    page = Page(render_data_report(make_survey(**EMPTY)))
    assert "No record is left." in page.text
    assert "Bias" not in page.text
    assert any("malformed_json" in line for line in survey_lines(make_survey(**EMPTY)))


def test_bars_of_the_chart_are_as_high_as_their_counts() -> None:
    svg = render_data_report(make_survey()).split("<svg")[1]
    heights = [float(h) for h in re.findall(r'<rect class="bar"[^>]* height="([\d.]+)"', svg)]
    assert [h / heights[0] for h in heights] == pytest.approx([n / 40 for n in (40, 61, 33, 19)], rel=0.01)


def test_the_summary_tells_the_same() -> None:
    text = "\n".join(survey_lines(make_survey()))
    for part in (
        "4,321  28.6% of them trained",
        "longest",
        "e-mail addresses",
        "exact duplicates",
        "symbols.ratio",
        "first: a.jsonl:3",
        "good  0.50  male 0.5 / female 1  BELOW FOUR FIFTHS",
        "(too few to judge)",
        "do `this` first",
    ):
        assert part in text, part
    assert "<" not in text.replace("<0.1%", "")


def test_pairs_are_called_pairs() -> None:
    survey = make_survey(sample="pair")
    assert "tokens of a pair" in "\n".join(survey_lines(survey))
    page = render_data_report(survey)
    assert "tokens of a pair (the last bar holds all longer ones)" in page
    assert "tokens of a sample" not in page


def test_numbers_are_aligned_to_the_right_and_words_to_the_left() -> None:
    assert aligned([["a", "1,000", "x"], ["long", "7", "yy"], ["b"]]) == ["a     1,000  x", "long      7  yy", "b"]


def test_many_lines_are_summed_up() -> None:
    table = [(f"l{i}", 30 - i) for i in range(20)]
    shown = share_bars(table)
    assert len(shown) == 13
    assert shown[-1][0] == "8 others"
    assert sum(n for _, n, _, _ in shown) == sum(n for _, n in table)
    assert sum(part for _, _, part, _ in shown) == pytest.approx(1)
    assert len(share_bars(table[:13])) == 13
    assert share_bars([]) == []


def test_a_small_share_is_not_none() -> None:
    assert (share(1, 100_000), share(0, 5), share(1, 0), share(1, 3)) == ("<0.1%", "0.0%", "0.0%", "33.3%")
