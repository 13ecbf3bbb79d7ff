"""What one task does: records to samples in order, refused ones with their reason, sides by prompt, columns."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from raysft.data.prepare.encode import EncodedBatch, EncodeStage, encode_task, goes_to_held_out, sample_schema
from raysft.data.prepare.write_shards import write_shard
from raysft.data.read.sources import expand, plan_reads
from raysft.data.records import Conversation, Message
from raysft.data.store.shards import (
    read_shard,
    shard_path,
    take_samples,
)


def encoded(path: Path, stage: EncodeStage) -> list[EncodedBatch]:
    files = expand([str(path)], columns=stage.data.columns)
    return [batch for task in plan_reads(files) for batch in encode_task(task, stage)]


def test_records_become_samples_in_order_and_the_rest_has_reasons(make_stage, tokenizers, tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [
        '{"instruction": "q", "output": "a"}',
        "broken",
        '{"nothing": "x"}',
        '{"instruction": "q2", "output": "\\ud800"}',
        '{"instruction": "q3", "output": "b"}',
    ]
    path.write_text("\n".join(lines))
    stage = make_stage(path)
    (batch,) = encoded(path, stage)
    assert batch.samples.schema == sample_schema(stage)
    first, second = batch.samples.to_pylist()
    assert tokenizers["chatml"].decode(first["input_ids"]).endswith("a<|im_end|>\n")
    assert first["num_tokens"] == len(first["input_ids"]) == len(first["target"])
    assert first["num_targets"] == sum(first["target"]) > 0
    assert (first["prompt"], first["weight"], first["held_out"]) == (None, 1.0, False)
    assert second["sample_id"] == sum(len(line) + 1 for line in lines[:4])
    found = [(reject.refusal.reason, reject.malformed) for reject in batch.rejects]
    assert found == [("malformed_json", True), ("unknown_format", True), ("invalid_unicode", False)]
    assert dict(batch.num_records) == {("a", False): 5}


def test_held_out_samples_carry_prompt_and_answer_and_are_not_augmented(make_stage, tmp_path):
    path = tmp_path / "a.jsonl"
    record = {"instruction": "some words that could be changed", "output": "a"}
    path.write_text("broken\n" + json.dumps(record))
    rules = [{"rule": "expand", "templates": ["Please: {prompt}"], "copies": 1}]
    (batch,) = encoded(path, make_stage(path, held_out=1.0, rules=rules))
    (sample,) = batch.samples.to_pylist()
    assert sample["prompt"] == f"<|im_start|>user\n{record['instruction']}<|im_end|>\n<|im_start|>assistant\n"
    assert sample["answer"] == "a"
    assert [reject.held_out for reject in batch.rejects] == [True]
    (batch,) = encoded(path, make_stage(path, rules=rules))
    assert len(batch.samples) == 2, "the original and its copy"
    assert len(set(batch.samples.column("sample_id").to_pylist())) == 1


def test_a_word_list_that_changed_is_read_again(make_stage, tmp_path):
    path, words = tmp_path / "a.jsonl", tmp_path / "words.txt"
    path.write_text('{"instruction": "q", "output": "good bad"}\n')
    rules = [{"rule": "harmful_words", "lists": {"x": str(words)}}]
    found = []
    for digest, word in (("1", "good"), ("2", "other"), ("3", "bad")):
        words.write_text(word + "\n")
        (batch,) = encoded(path, replace(make_stage(path, rules=rules), rules_digest=digest))
        found.append(len(batch.samples))
    assert found == [0, 1, 0]


def test_several_answers_become_samples_and_notes_are_counted_by_record(make_stage, tmp_path):
    path = tmp_path / "a.jsonl"
    records = [
        {"prompt": "q", "completions": ["a", "b", "a"], "mood": "good"},
        {"prompt": "q2", "completion": "c", "mood": "bad"},
        {"prompt": "q3", "completion": "d", "context": "x"},
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    (batch,) = encoded(path, make_stage(path, several_answers="all", ignore_columns="context"))
    assert [sample["sample_id"] for sample in batch.samples.to_pylist()][:2] == [0, 0]
    assert len(batch.samples) == 4
    assert batch.notes[0] == {
        "unread": {"mood": {"count": 2, "example": "'good'"}},
        "ignored": {"context": {"count": 1, "example": ""}},
    }
    (batch,) = encoded(path, make_stage(path))
    assert [reject.refusal.reason for reject in batch.rejects] == ["several_answers", "unread:context"]


def test_samples_are_taken_in_any_order_and_more_than_once(make_stage, tmp_path):
    numbers = iter(range(1000))
    locations = []
    for shard in range(3):
        path = tmp_path / f"{shard}.jsonl"
        records = [{"instruction": f"q{next(numbers)}", "output": "a"} for _ in range(300)]
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        (task,) = plan_reads(expand([str(path)]))
        write_shard(str(tmp_path), shard, task, make_stage(path))
        locations.append(shard_path(str(tmp_path), shard))
    whole = [read_shard(location, ["input_ids"]).column("input_ids").to_pylist() for location in locations]
    draw = np.random.default_rng(0)
    shards, rows = draw.integers(0, 3, 500), draw.integers(0, 300, 500)
    taken = take_samples(locations, shards, rows, ["input_ids"]).column("input_ids").to_pylist()
    assert taken == [whole[shard][row] for shard, row in zip(shards, rows, strict=True)]
    in_order = take_samples(locations, np.repeat([0, 1], 300), np.tile(np.arange(300), 2), ["input_ids"])
    assert in_order.column("input_ids").to_pylist() == whole[0] + whole[1]


def test_the_split_goes_by_prompt():
    def talk(question: str, answer: str) -> Conversation:
        return Conversation(1, (Message("user", question), Message("assistant", answer)))

    share = sum(goes_to_held_out(talk(f"q{i}", "a"), 0.2) for i in range(5000)) / 5000
    assert 0.18 < share < 0.22
    for i in range(200):
        assert goes_to_held_out(talk(f"q{i}", "a"), 0.2) == goes_to_held_out(talk(f"q{i}", f"b{i}"), 0.2)
    held = [goes_to_held_out(talk(f"q{i}", "a"), 0.1) for i in range(500)]
    more = [goes_to_held_out(talk(f"q{i}", "a"), 0.3) for i in range(500)]
    assert all(b or not a for a, b in zip(held, more, strict=True)), "a larger share keeps the smaller one"
    texts = [Conversation(1, (Message("text", f"text {i}"),)) for i in range(2000)]
    assert 0.17 < sum(goes_to_held_out(text, 0.2) for text in texts) / 2000 < 0.23
