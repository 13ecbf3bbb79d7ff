from __future__ import annotations

import json

import pyarrow as pa
import pytest

from raysft.data.records import Conversation, Message
from raysft.data.sources import expand, plan_reads
from raysft.data.stage import ENCODED, EncodeStage, encode_task, is_held_out, raised
from raysft.data.tokenizer import template_for
from raysft.errors import DataError
from raysft.recipe.schema import DataSection


def run(path, tokenizers, *, held_out=0.0, template=None, **data) -> pa.Table:
    tokenizer = tokenizers["chatml"]
    stage = EncodeStage(
        tokenizer.name_or_path or "",
        None,
        False,
        template or template_for("chatml", tokenizer),
        DataSection(train=(str(path),), **data),
        held_out,
    )
    tables = [table for task in plan_reads(expand([str(path)])) for table in encode_task(task, stage)]
    return pa.concat_tables(tables)


@pytest.fixture
def tokenizers(tokenizers, tmp_path):
    """Saved where a task can load it."""
    tokenizers["chatml"].save_pretrained(tmp_path / "tok")
    tokenizers["chatml"].name_or_path = str(tmp_path / "tok")
    return tokenizers


def test_records_become_rows_in_order(tmp_path, tokenizers):
    path = tmp_path / "a.jsonl"
    lines = [
        '{"instruction": "q", "output": "a"}',
        "broken",
        '{"text": "x"}',
        '{"instruction": "q2", "output": "\\ud800"}',
    ]
    path.write_text("\n".join(lines))
    table = run(path, tokenizers)
    assert table.schema == ENCODED
    assert table.column("reason").to_pylist() == [None, "malformed_json", "unknown_format", "invalid_unicode"]
    assert table.column("bad_record").to_pylist() == [None, True, True, False]
    first = table.to_pylist()[0]
    assert tokenizers["chatml"].decode(first["input_ids"]).endswith("a<|im_end|>\n")
    assert len(first["target"]) == len(first["input_ids"])
    assert first["prompt"] is None


def test_held_out_samples_carry_prompt_and_answer(tmp_path, tokenizers):
    path = tmp_path / "a.jsonl"
    path.write_text("broken\n" + json.dumps({"instruction": "q", "output": "a"}))
    rows = run(path, tokenizers, held_out=1.0).to_pylist()
    assert [row["held_out"] for row in rows] == [True, True]
    assert rows[1]["prompt"] == "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"
    assert rows[1]["answer"] == "a"


def test_errors_come_back_as_values(tmp_path, tokenizers):
    path = tmp_path / "a.json"
    path.write_text("[1, ")
    (row,) = run(path, tokenizers).to_pylist()
    error = raised(row["failure"])
    assert isinstance(error, DataError)
    assert "not valid JSON" in str(error)
    assert error.fix


def test_the_split_goes_by_prompt():
    def talk(question: str, answer: str) -> Conversation:
        return Conversation(1, (Message("user", question), Message("assistant", answer)))

    share = sum(is_held_out(talk(f"q{i}", "a"), 0.2) for i in range(5000)) / 5000
    assert 0.18 < share < 0.22
    for i in range(200):
        assert is_held_out(talk(f"q{i}", "a"), 0.2) == is_held_out(talk(f"q{i}", f"b{i}"), 0.2)
    held = [is_held_out(talk(f"q{i}", "a"), 0.1) for i in range(500)]
    more = [is_held_out(talk(f"q{i}", "a"), 0.3) for i in range(500)]
    assert all(b or not a for a, b in zip(held, more, strict=True)), "a larger share keeps the smaller one"
