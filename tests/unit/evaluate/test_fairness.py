"""Gaps between groups, labels, and terms exchanged."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from raysft.errors import DataError, UserError
from raysft.evaluate.exchange import exchanged, read_terms, swap_lines, write_swapped
from raysft.evaluate.fairness import (
    GroupedAnswer,
    gap_of,
    group_lines,
    grouped_scored,
    metrics_named,
    read_grouped,
    scorers_named,
)
from raysft.metrics.base import Answer

TERMS = [("he", "she"), ("his", "her"), ("Mr Smith", "Ms Smith"), ("男", "女")]


def answers(folder: Path, name: str, rows: list[tuple[str, str, dict[str, Any]]]) -> str:
    """rows: (answer, reference, more of the record)."""
    file = folder / f"{name}.jsonl"
    lines = [
        {"number": i, "generated": text, "record": {"prompt": f"q {i}", "output": wanted, **more}}
        for i, (text, wanted, more) in enumerate(rows)
    ]
    file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return str(file)


def test_a_gap_against_every_grouping_there_is() -> None:
    """Two groups of 4 of 8: of the 70 ways to part them, those with at least that gap, counted one by one."""
    ones = [1, 1, 1, 0, 1, 0, 0, 0]
    rows = [(float(one), 1.0) for one in ones]
    gap, p = gap_of([rows[:4], rows[4:]], lambda sums: sums[0] / sums[1], 3)
    assert gap == pytest.approx(0.5)
    ways = [sum(ones[i] for i in way) for way in combinations(range(8), 4)]
    share = sum(abs(2 * right - sum(ones)) / 4 >= 0.5 for right in ways) / len(ways)
    assert p == pytest.approx(share, abs=0.05)


def test_metrics_and_labels_by_group(tmp_path: Path) -> None:
    rows = [("yes" if i % 4 else "no", "yes", {"sex": "f"}) for i in range(40)]
    rows += [("no" if i % 4 else "yes", "yes", {"sex": "m"}) for i in range(40)]
    rows += [("yes", "yes", {"sex": "x"})] * 2 + [("yes", "yes", {})]
    lines = group_lines(read_grouped(answers(tmp_path, "a", rows)), "sex", metrics_named(["exact_match"]))
    assert lines[0] == "by sex: f (40), m (40)"
    assert lines[1] == "  1 groups of fewer than 5 answers are left out"
    text = "\n".join(lines)
    assert "gap                  50.0%, p 0.001" in text
    assert "answered 'no': f 25.0%, m 75.0%; gap 50.0%, p 0.001" in text


def test_answers_without_a_group_are_counted_and_left_out(tmp_path: Path) -> None:
    """The column is missing, null or blank."""
    told = [{"sex": name} for name in ("f", "m") for _ in range(5)] + [{}, {"sex": None}, {"sex": " "}]
    file = answers(tmp_path, "a.jsonl", [("yes", "yes", record) for record in told])
    lines = group_lines(read_grouped(file), "sex", metrics_named(["exact_match"]))
    assert lines[0] == "by sex: f (5), m (5)"
    assert lines[1] == "  3 answers whose record has no sex are left out"


def test_groups_that_are_alike_are_not_accused(tmp_path: Path) -> None:
    rows = [("yes" if i % 3 else "no", "yes", {"sex": "fm"[i % 2]}) for i in range(60)]
    lines = group_lines(read_grouped(answers(tmp_path, "a", rows)), "sex", metrics_named(["exact_match", "length"]))
    assert all(float(line.rpartition(" ")[2]) > 0.5 for line in lines if " p " in line)


@pytest.mark.parametrize("column", ["age", "sex"])
def test_without_two_groups_it_is_told(column: str, tmp_path: Path) -> None:
    found = read_grouped(answers(tmp_path, "a", [("x", "x", {"sex": "f"})] * 9 + [("x", "x", {"sex": "m"})] * 4))
    with pytest.raises(UserError, match="no groups to compare"):
        group_lines(found, column, metrics_named(["exact_match"]))
    with pytest.raises(UserError, match="cannot be computed"):
        metrics_named(["fluency"])


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("He said the theory is his.", "She said the theory is her."),
        ("SHE and her: he", "HE and his: she"),
        ("Mr Smith, he; MS SMITH", "Ms Smith, she; MR SMITH"),
        ("这个男人和女人", "这个女人和男人"),
        ("Here, there, sheet", "Here, there, sheet"),
        ("", ""),
    ],
)
def test_terms_are_exchanged_both_ways_at_once(text: str, other: str) -> None:
    assert exchanged(text, TERMS) == other
    assert exchanged(exchanged(text, TERMS), TERMS) == text


def test_questions_are_exchanged_in_their_order_and_compared_in_pairs(tmp_path: Path) -> None:
    questions = tmp_path / "q.jsonl"
    records = [
        {"prompt": "He is a nurse?"},
        {"messages": [{"role": "user", "content": "Is she kind?"}]},
        {"prompt": "2?"},
    ]
    questions.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert write_swapped(str(questions), TERMS, str(tmp_path / "s.jsonl")) == (3, 2)
    made = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert made[0] == {"prompt": "She is a nurse?"}
    assert made[1] == {"messages": [{"role": "user", "content": "Is he kind?"}]}
    one = read_grouped(
        answers(tmp_path, "a", [("yes", "yes", {"of": "he"}), ("no", "no", {"of": "he"}), ("4", "4", {})])
    )
    two = read_grouped(
        answers(tmp_path, "b", [("no", "yes", {"of": "she"}), ("no", "no", {"of": "she"}), ("5", "4", {})])
    )
    lines = swap_lines(one, two, metrics_named(["exact_match"]))
    assert lines[0] == "exchanged: 2 of 3 questions hold a term; 1 answers change"
    assert "-0.5000" in lines[1]
    with pytest.raises(UserError, match="in pairs"):
        swap_lines(one, two[:2], [])
    with pytest.raises(UserError, match="no question has changed"):
        swap_lines(one, one, [])


def test_a_table_of_terms_that_is_none_is_named(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text('{"a": "he", "b": "she"}\n{"a": "man", "b": "woman"}\n')
    assert read_terms(str(file)) == [("he", "she"), ("man", "woman")]
    for wrong in ('{"a": "he"}', '{"a": "he", "b": "he"}', '{"a": "he", "b": "she"}\n{"a": "he", "b": "it"}'):
        file.write_text(wrong + "\n")
        with pytest.raises(DataError):
            read_terms(str(file))


def test_listed_terms_are_compared_between_groups_and_after_an_exchange(tmp_path: Path) -> None:
    terms = tmp_path / "terms.txt"
    terms.write_text("idiot\n")
    scorers = scorers_named(["toxicity"], "", [str(terms)])
    said = {"f": ["you idiot"] * 15 + ["fine"] * 5, "m": ["fine"] * 19 + ["Idiot!"]}
    answers = [
        GroupedAnswer(Answer(f"{group}{number}", text, ""), {"group": group})
        for group, texts in said.items()
        for number, text in enumerate(texts)
    ]
    lines = group_lines(grouped_scored(answers, scorers), "group", metrics_named(["toxicity"]))
    assert [line.split()[1] for line in lines if line.startswith("    ")] == ["75.0%", "5.0%", "70.0%,"]
    others = [GroupedAnswer(Answer(f"x{number}", "fine", ""), answers[number].record) for number in range(40)]
    assert "-0.4000" in swap_lines(answers, others, metrics_named(["toxicity"]), scorers)[1]


@pytest.mark.parametrize(
    ("names", "encoder", "terms"), [(["toxicity"], "", []), (["bleu"], "", ["t"]), (["bleu"], "e", [])]
)
def test_options_of_a_metric_stand_beside_it(names: list[str], encoder: str, terms: list[str]) -> None:
    with pytest.raises(UserError, match="stand beside it"):
        scorers_named(names, encoder, terms)


def test_only_answers_to_the_same_questions_are_paired(tmp_path: Path) -> None:
    rows = [(f"a{i % 2}", "a0", {"of": "he", "id": i}) for i in range(6)]
    one, two = read_grouped(answers(tmp_path, "a", rows)), read_grouped(answers(tmp_path, "b", rows[::-1]))
    with pytest.raises(UserError, match="answer 1 of both files is not to the same question"):
        swap_lines(one, two, [])
    with pytest.raises(UserError, match="answer 1 of both files"):
        swap_lines(one, one[::-1], [])


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    rows = [("a", "", {"g": "x" * 80 if i % 2 else "m"}) for i in range(20)]
    file = answers(tmp_path, "a", rows)
    with pytest.raises(DataError, match="says what was to be said") as told:
        read_grouped(file, "nowhere")
    assert "g, output, prompt" in told.value.got
    lines = group_lines(read_grouped(file), "g", metrics_named(["exact_match", "exact_match"]))
    assert "  20 answers have nothing to be compared with" in "\n".join(lines)
    assert lines.count("  exact match of greedy answers") == 1
    assert max(map(len, lines)) < 118
    with pytest.raises(UserError, match="code is not compared"):
        metrics_named(["passes_tests"])


def test_long_answers_are_no_labels(tmp_path: Path) -> None:
    rows = [(("yes " * 99, "no")[i % 2], "no", {"g": "f" if i < 10 else "m"}) for i in range(20)]
    assert "answered" not in "".join(group_lines(read_grouped(answers(tmp_path, "a", rows)), "g", []))


def test_no_questions_are_not_exchanged(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text("\n")
    with pytest.raises(DataError, match="holds no question"):
        write_swapped(str(tmp_path / "q.jsonl"), TERMS, str(tmp_path / "s.jsonl"))
    assert not (tmp_path / "s.jsonl").exists()
