"""What a killed prepare finds again: finished shards with their sums, of the very files that they were begun with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raysft.data.store.shards import (
    FIRST_OF_A_REASON,
    merge_summaries,
    new_summary,
    publish_shard,
    read_shard,
    read_summaries,
    rejects_path,
    resume,
    shard_path,
    take_samples,
)


def shard(work: Path, index: int, values: list[int], *, batch: int = 3, rejects: str = "") -> dict[str, Any]:
    """A shard of one column and its summary."""
    work.mkdir(exist_ok=True)
    table = pa.table({"value": pa.array(values, pa.int64()), "other": pa.array(values, pa.int64())})
    location = Path(shard_path(str(work), index))
    with pa.OSFile(str(location), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=batch)
    summary = new_summary() | {"samples": len(values)}
    summary["sides"]["train"]["records"] = len(values)
    samples_sum = hashlib.sha256(location.read_bytes()).hexdigest()
    publish_shard(str(work), index, summary, samples_sum=samples_sum, rejects=rejects)
    return summary


DAMAGES: dict[str, Callable[[Path], object]] = {
    "samples cut": lambda work: _change(work / "shard-00001.arrow", lambda data: data[:-1]),
    "samples gone": lambda work: (work / "shard-00001.arrow").unlink(),
    "rejects changed": lambda work: _change(work / "shard-00001.rejects.jsonl", lambda data: data + b"x"),
    "rejects gone": lambda work: (work / "shard-00001.rejects.jsonl").unlink(),
    "another count": lambda work: _change(
        work / "shard-00001.json", lambda d: d.replace(b'"samples": 2', b'"samples": 3')
    ),
    "summary cut": lambda work: _change(work / "shard-00001.json", lambda data: data[:20]),
    "a list": lambda work: (work / "shard-00001.json").write_text("[1]"),
}


def _change(path: Path, change: Callable[[bytes], bytes]) -> None:
    before = path.read_bytes()
    path.write_bytes(change(before))
    assert path.read_bytes() != before


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_shard_is_none_and_the_others_stay(tmp_path: Path, damage: str, caplog: Any) -> None:
    work = tmp_path / "work"
    kept = shard(work, 0, [1, 2, 3])
    shard(work, 1, [4, 5], rejects='{"reason": "x"}\n')
    assert list(read_summaries(str(work))) == [0, 1]
    DAMAGES[damage](work)
    found = read_summaries(str(work))
    assert list(found) == [0]
    assert found[0]["samples"] == kept["samples"] == 3
    assert "shard 1" in caplog.text


def test_shards_count_for_the_files_that_they_were_begun_with(tmp_path: Path) -> None:
    work = str(tmp_path / "work")
    assert resume(work, ["a 1", "b 1"]) == {}
    shard(tmp_path / "work", 0, [1])
    assert list(resume(work, ["a 1", "b 1"])) == [0]
    for stamps in (["a 1", "b 2"], ["b 1", "a 1"], ["a 1"], ["a 1", ""]):
        shard(tmp_path / "work", 0, [1])
        assert resume(work, stamps) == {}, stamps
        assert not (tmp_path / "work" / "shard-00000.arrow").exists()
        resume(work, ["a 1", "b 1"])


def test_samples_of_shards_in_any_order(tmp_path: Path) -> None:
    values = [[10 * number + i for i in range(size)] for number, size in enumerate((7, 0, 4))]
    for number, own in enumerate(values):
        shard(tmp_path, number, own)
    locations = [shard_path(str(tmp_path), number) for number in range(3)]
    assert read_shard(locations[0], ["value"]).column_names == ["value"]
    draw = np.random.default_rng(0)
    for _ in range(20):
        shards = draw.choice([0, 2], 12)
        rows = np.array([draw.integers(0, len(values[s])) for s in shards])
        taken = take_samples(locations, shards, rows, ["value"]).column("value").to_pylist()
        assert taken == [values[s][r] for s, r in zip(shards, rows, strict=True)]


def test_summaries_add_up_and_keep_the_first_of_a_reason() -> None:
    parts = []
    for number in range(4):
        part = new_summary()
        part["samples"] = number
        part["sides"]["eval"]["refused"]["x"] = 3
        part["sides"]["eval"]["first"]["x"] = [{"sample_id": 10 * number + i} for i in range(3)]
        part["sources"] = {"s": {"eval": {"records": 2, "refused": 3}}}
        part["findings"]["pii.email"] = number
        parts.append(part)
    total = merge_summaries(parts)
    assert (total["samples"], total["findings"]["pii.email"]) == (6, 6)
    assert total["sides"]["eval"]["refused"]["x"] == 12
    assert [one["sample_id"] for one in total["sides"]["eval"]["first"]["x"]] == [0, 1, 2, 10, 11]
    assert FIRST_OF_A_REASON == 5
    assert total["sources"]["s"]["eval"] == {"records": 8, "refused": 12}
    assert total["sides"]["train"]["refused"] == {}
    assert len(parts[0]["sides"]["eval"]["first"]["x"]) == 3, "what is merged is left as it was"


def test_a_shard_without_refusals_has_no_file_of_them(tmp_path: Path) -> None:
    shard(tmp_path, 0, [1])
    assert not Path(rejects_path(shard_path(str(tmp_path), 0))).exists()
    assert list(read_summaries(str(tmp_path))) == [0]
