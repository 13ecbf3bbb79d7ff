"""Preferred and rejected answers, and several with scores, as other people's files have them."""

from __future__ import annotations

from typing import Any

import pytest

from raysft.data.formats import Reading, read_record
from raysft.data.records import Refusal

U, A = {"role": "user", "content": "q"}, {"role": "assistant", "content": "good"}
HH = "\n\nHuman: q\n\nAssistant: {}"
BEFORE = "\n\nHuman: p\n\nAssistant: o"
SCORED = (("good", 8.5), ("bad", 1))
PAIRS: list[dict[str, Any]] = [
    {"prompt": "q", "chosen": "good", "rejected": "bad"},
    {"chosen": HH.format("good"), "rejected": HH.format("bad")},
    {"prompt": HH.format(""), "chosen": HH.format("good"), "rejected": HH.format("bad")},
    {"prompt": HH.format(""), "chosen": "good", "rejected": "bad"},
    {"messages": [U, A], "rejected_response": "bad"},
    {"messages": [U, A], "rejected_messages": [U, {**A, "content": "bad"}]},
    {"query": "q", "response": "good", "rejected_response": "bad"},
    {"prompt": "q", "chosen": "good", "rejected": "bad", "chosen_model": "m", "rejected_model": "n", "models": ["a"]},
    {"prompt": "q", "answers": [{"answer": "bad", "rank": 2}, {"answer": "good", "rank": 1.0, "model": "m"}]},
    {"instruction": "q", "completions": [{"response": t, "overall_score": s} for t, s in SCORED]},
    {"prompt": "q", "responses": [{"content": "good", "score": 2}, {"content": "bad", "score": 1}]},
]  # fmt: skip


@pytest.mark.parametrize("record", PAIRS)
def test_the_better_answer_is_the_records_own(record: dict[str, Any]) -> None:
    found = read_record(record, Reading(), id=1, source="f")
    assert not isinstance(found, Refusal), found
    assert [(message.role, message.content) for message in found[0].messages] == [
        ("user", "q"),
        ("assistant", "good"),
    ]
    best, worst = sorted(found[0].candidates, key=lambda candidate: -candidate.score)
    assert [message.content for message in best.messages] == ["good"]
    assert [message.content for message in worst.messages] == ["bad"]
    assert best.score > worst.score
    assert not [note for note in found[0].notes if note.kind == "unread"]


def test_talks_part_at_an_answer_in_their_middle() -> None:
    record = {"chosen": BEFORE + HH.format("good"), "rejected": BEFORE + HH.format("bad")}
    found = read_record(record, Reading(), id=1, source="f")
    assert not isinstance(found, Refusal)
    assert [message.content for message in found[0].messages] == ["p", "o", "q", "good"]
    assert [note.kind for note in found[0].notes] == ["guess", "guess"]


@pytest.mark.parametrize(
    ("record", "reason", "word"),
    [
        ({"messages": [U], "rejected_response": "bad"}, "missing_column", "needs an answer that is better"),
        ({"rejected_response": "bad", "prompt": "q"}, "unknown_format", "expected"),
        ({"messages": [U, A], "rejected_response": 3}, "wrong_type", "rejected_response"),
        ({"chosen": HH.format("a"), "rejected": "\n\nHuman: x\n\nAssistant: b"}, "role_order", "part before"),
        ({"chosen": "a", "rejected": "b"}, "missing_column", "prompt"),
        (
            {"prompt": "q", "answers": [{"reply": "a", "rank": 1}, {"reply": "b", "rank": 2}]},
            "wrong_type",
            "`answer`",
        ),
    ],
)
def test_refusals(record: dict[str, Any], reason: str, word: str) -> None:
    found = read_record(record, Reading(), id=1, source="f")
    assert isinstance(found, Refusal), found
    assert (found.reason, word in found.detail) == (reason, True), found


def test_a_good_or_a_bad_answer_by_llama_factorys_name() -> None:
    record = {"messages": [U, A], "kto_tag": False}
    found = read_record(record, Reading(judged=True), id=1, source="f")
    assert not isinstance(found, Refusal)
    assert found[0].wanted is False
    refused = read_record(record, Reading(), id=1, source="f")
    assert isinstance(refused, Refusal)
    assert (refused.reason, "`kto_tag: false`" in refused.detail) == ("unwanted_answer", True)
