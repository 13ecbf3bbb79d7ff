"""Facts add up in any order, quantiles and bins are those of a sorted list, columns of identities are no groups."""

from __future__ import annotations

import json
import random

import pytest

from raysft.data.records import Conversation, Message
from raysft.data.report.survey_facts import (
    MAX_GROUPS,
    QUALITY_BINS,
    count,
    count_conversation,
    count_groups,
    count_length,
    count_refusal,
    groups,
    length_facts,
    merge_facts,
    new_facts,
    quality_facts,
)


def conversation(answer: str = "yes", label: str | None = None, **metadata: object) -> Conversation:
    messages = (Message("user", "why?"), Message("assistant", answer))
    return Conversation(id=0, messages=messages, label=label, metadata=metadata)


def facts_of(*rows: Conversation, attributes: tuple[str, ...] = (), kept: bool = True):
    facts = new_facts()
    for row in rows:
        facts["records"] += 1
        count_conversation(facts, row, {"a": 0.5, "b": 1.0})
        count_groups(facts, row, attributes, quality=0.75, kept=kept)
    return facts


def test_pieces_in_any_order_give_the_facts_of_the_whole() -> None:
    chance = random.Random(7)
    rows = [
        conversation("x" * chance.randrange(9), chance.choice("ab"), gender=chance.choice("fm"), n=i % 60)
        for i in range(200)
    ]
    whole = merge_facts([facts_of(*rows, attributes=("gender",))])
    pieces = [facts_of(*rows[i : i + 17], attributes=("gender",)) for i in range(0, 200, 17)]
    chance.shuffle(pieces)
    merged = merge_facts(json.loads(json.dumps(pieces)))
    assert json.dumps(_sorted(merged)) == json.dumps(_sorted(whole))
    assert merged["records"] == 200
    assert sum(merged["columns"]["gender"].values()) == 200
    by_hand = sum(len(r.messages[-1].content) for r in rows if r.metadata["gender"] == "f")
    assert merged["attributes"]["gender"]["f"]["answer_chars"] == by_hand


def _sorted(value: object) -> object:
    if isinstance(value, dict):
        return {name: _sorted(value[name]) for name in sorted(value)}
    return round(value, 9) if isinstance(value, float) else value


def test_the_first_places_of_a_reason_are_the_lowest_of_all_pieces() -> None:
    pieces = []
    for start in (50, 0, 20):
        facts = new_facts()
        for place in range(start, start + 8):
            count_refusal(facts, "over", place)
        pieces.append(facts)
    merged = merge_facts(pieces)
    assert merged["refused"] == {"over": 24}
    assert merged["first"]["over"] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("longest", [9, 300, 90_000])
def test_lengths_are_those_of_a_sorted_list(longest: int) -> None:
    chance = random.Random(longest)
    lengths = sorted(int(longest * chance.random() ** 3) + 1 for _ in range(5000))
    facts = new_facts()
    for length in lengths:
        count_length(facts, length, 1, 100)
    described = length_facts(facts)
    for name, share in (("50%", 0.5), ("90%", 0.9), ("99%", 0.99)):
        assert described["quantiles"][name] == pytest.approx(lengths[int(share * 5000) - 1], rel=0.011)
    assert described["mean"] == pytest.approx(sum(lengths) / 5000)
    assert sum(b["samples"] for b in described["bins"]) == 5000
    for b in described["bins"][:-1]:
        exact = sum(b["from"] <= length < b["to"] for length in lengths)
        if b["to"] <= 1000:
            assert b["samples"] == exact
    assert len(described["bins"]) <= 34
    assert facts["over_long"] == sum(length > 100 for length in lengths)


def test_a_score_of_one_is_in_the_last_bin() -> None:
    facts = new_facts()
    for value in (0.0, 0.049, 0.05, 1.0):
        count_conversation(facts, conversation(), {"only": value})
    count_conversation(facts, conversation(), {})
    described = quality_facts(facts)
    assert described["bins"] == [2, 1, *[0] * (QUALITY_BINS - 3), 1]
    assert described["mean"] == pytest.approx(1.099 / 4)
    assert quality_facts(new_facts())["mean"] is None


def test_columns_of_identities_and_of_many_values_are_no_groups() -> None:
    few = [conversation(name=f"person {i}", topic="ab"[i % 2]) for i in range(10)]
    assert list(groups(merge_facts([facts_of(*few)]))) == ["topic"]
    many = [conversation(number=i % (MAX_GROUPS + 1)) for i in range(500)]
    assert groups(merge_facts([facts_of(*many[:40]), facts_of(*many[40:])])) == {}
    assert groups(merge_facts([facts_of(*(conversation(n=i % MAX_GROUPS) for i in range(500)))]))["n"][0][1] == 10
    assert len(json.dumps(facts_of(*(conversation(id=i) for i in range(5000))))) < 2000, "memory is bounded"


def test_attributes_are_found_whatever_their_case_and_ages_are_decades() -> None:
    rows = [conversation(Gender="f", age=37), conversation(Gender="m", age=31.5), conversation(age="old")]
    found = facts_of(*rows, attributes=("gender", "age"))["attributes"]
    assert set(found) == {"Gender", "age"}
    assert {name: group["records"] for name, group in found["age"].items()} == {"30-39": 2, "old": 1}


def test_refused_records_count_in_their_group_but_not_in_its_rates() -> None:
    found = facts_of(conversation("no", "bad", sex="f"), attributes=("sex",), kept=False)
    assert found["attributes"]["sex"]["f"] == {
        "records": 1,
        "kept": 0,
        "answer_chars": 0,
        "quality": 0.0,
        "labels": {},
    }
    assert found["labels"] == {}


def test_count_takes_any_name() -> None:
    table: dict[str, float] = {}
    count(table, 3)
    count(table, "3", 2)
    assert table == {"3": 3}
