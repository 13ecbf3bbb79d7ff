"""One record on its way to tokens, as prepare takes it, with its place, its parts and what was said of it."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from raysft.data.read.sources import read_all
from raysft.data.report.trace import Traced, Tracer, token_kind
from raysft.data.text.fitting import CUT, STRADDLES, UNKNOWN

RECORD = {"instruction": "q", "output": "a b c"}


def traced(recipe: Any) -> list[Traced]:
    tracer = Tracer(recipe)
    return [tracer.trace(raw) for raw in read_all(tracer.files)]


def test_a_sample_is_told_token_by_token(make: Any, tokenizers: dict[str, PreTrainedTokenizerFast]) -> None:
    (found,) = traced(make([RECORD], template="chatml"))
    (sample,) = found.samples
    assert found.place.endswith("a.jsonl:1")
    assert "".join(text for text, _ in sample.pieces) == (
        "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na b c<|im_end|>\n"
    )
    trained = "".join(text for text, kind in sample.pieces if kind == "trained")
    assert trained == "a b c<|im_end|>"
    ids = sample.example.input_ids.tolist()
    assert tokenizers["chatml"].convert_tokens_to_ids(sample.words) == ids
    assert sample.size == f"{len(ids)} tokens, {sum(sample.example.target > 0)} trained"


def test_refused_records_and_their_places(make: Any) -> None:
    found = traced(make([RECORD, "broken", {"instruction": "q", "output": ""}], template="chatml"))
    assert [len(one.samples) for one in found] == [1, 0, 0]
    assert [[refusal.reason for refusal in one.refusals] for one in found] == [
        [],
        ["malformed_json"],
        ["empty_answer"],
    ]
    assert [one.place.rpartition(":")[2] for one in found] == ["1", "2", "3"]


def test_held_out_records_are_marked_and_not_augmented(make: Any) -> None:
    rules = [{"rule": "expand", "templates": ["Please: {prompt}"], "copies": 2}]
    (trained,) = traced(make([RECORD], template="chatml", rules=rules))
    assert [sample.name.rpartition(",")[0].rpartition(", ")[2] for sample in trained.samples] == [
        *(f"sample {i} of 3" for i in (1, 2, 3)),
    ]
    (held,) = traced(make([RECORD], template="chatml", rules=rules, eval_fraction=0.999999))
    assert held.place.endswith("(held out)")
    assert len(held.samples) == 1


def test_parts_of_a_long_record_and_what_it_costs(make: Any) -> None:
    long = {"instruction": "q", "output": "word " * 60}
    (split,) = traced(make([long], template="chatml", max_tokens=32, over_long="split"))
    assert [sample.name.split(": ")[0].rpartition(" part ")[2] for sample in split.samples] == [
        f"{i} of {len(split.samples)}" for i in range(1, len(split.samples) + 1)
    ]
    (cut,) = traced(make([long], template="chatml", max_tokens=32, over_long="truncate"))
    assert cut.samples[0].size.endswith("cut to data.max_tokens")
    (dropped,) = traced(make([long], template="chatml", max_tokens=32))
    assert [refusal.reason for refusal in dropped.refusals] == ["over_long"]


def test_what_was_found_and_what_was_not_read_is_told(make: Any) -> None:
    record = {**RECORD, "output": "ask anna@example.org", "mood": "good"}
    (found,) = traced(make([record], template="chatml", rules=[{"rule": "pii"}]))
    assert found.findings == {"pii.email": 1}
    assert [(note.kind, note.name) for note in found.notes] == [("unread", "mood")]


@pytest.mark.parametrize(
    ("weight", "flags", "kind"),
    [
        (0.0, 0, "plain"),
        (0.5, 0, "trained"),
        (1.0, STRADDLES, "straddling"),
        (0.0, STRADDLES | UNKNOWN, "unknown"),
        (1.0, CUT, "trained"),
    ],
)
def test_doubts_come_before_what_is_trained(weight: float, flags: int, kind: str) -> None:
    assert token_kind(weight, flags) == kind
