from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from token_stores import write

from raysft.data.store import manifest
from raysft.data.store import parts as store_module
from raysft.data.store.manifest import find_damage, read_manifest, write_manifest
from raysft.data.store.parts import TokenStore, write_prompts
from raysft.errors import DataError, StorageError


def test_every_sample_comes_back_once(store):
    opened, tables = store
    expected = {row["sample_id"]: row for table in tables for row in table.to_pylist()}
    seen = []
    for row in opened.read_rows(range(opened.num_rows)):
        assert row.num_tokens == len(row.token_fields["input_ids"]) <= 64
        assert row.segment_fields["atom"].tolist() == list(range(len(row.segment_fields["length"])))
        ends = np.cumsum(row.segment_fields["length"])
        for sample_id, end, length in zip(
            row.segment_fields["sample_id"], ends, row.segment_fields["length"], strict=True
        ):
            seen.append(int(sample_id))
            own, wanted = slice(end - length, end), expected[sample_id]
            assert row.token_fields["input_ids"][own].tolist() == wanted["input_ids"]
            assert row.token_fields["target"][own].tolist() == [wanted["weight"] * t for t in wanted["target"]]
    assert sorted(seen) == sorted(expected)


def test_the_fullest_row_is_found_without_reading_tokens(store):
    opened, _ = store
    rows = opened.read_rows(range(opened.num_rows))
    assert opened.most_segments() == max(len(row.segment_fields["length"]) for row in rows) > 1


def test_types(store):
    (row,) = store[0].read_rows([0])
    assert row.token_fields["input_ids"].dtype == np.int32
    assert row.token_fields["target"].dtype == np.float32
    assert row.segment_fields["length"].dtype == np.int32
    assert row.segment_fields["sample_id"].dtype == np.int64


def test_rows_in_any_order_and_over_parts(store):
    opened, _ = store
    order = np.random.default_rng(0).permutation(opened.num_rows)
    shuffled = opened.read_rows(order)
    for index, row in zip(order, shuffled, strict=True):
        (alone,) = opened.read_rows([index])
        assert alone.token_fields["input_ids"].tolist() == row.token_fields["input_ids"].tolist()
    with pytest.raises(IndexError):
        opened.read_rows([opened.num_rows])


def test_counts_and_bytes_are_reproducible(store, tmp_path):
    opened, tables = store
    parts = opened.manifest["parts"]
    assert sum(part["tokens"] for part in parts) == sum(
        len(t.column("input_ids").combine_chunks().flatten()) for t in tables
    )
    chunked = [pa.concat_tables([table.slice(0, 30), table.slice(30)]) for table in tables]
    assert write(str(tmp_path / "again"), chunked) == parts


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_every_bit_that_row_sizes_come_from_is_checked(store):
    """The order of rows follows from their sizes, which are read before all else of a part is hashed."""
    opened, _ = store
    path = Path(opened.location) / opened.manifest["parts"][1]["name"]
    good, right = path.read_bytes(), opened.row_sizes()
    differences = 0
    for place in range(0, len(good), max(1, len(good) // 120)):
        flip(path, place)
        try:
            found = TokenStore.open(opened.location).row_sizes()
        except DataError:
            differences += 1
        else:
            assert all(np.array_equal(a, b) for a, b in zip(found, right, strict=True))
        path.write_bytes(good)
    assert differences > 3


def test_prompts_are_those_that_were_written(store):
    opened, _ = store
    assert opened.prompts() == []
    prompts = [{"sample_id": 1, "prompt": "a\u2028b\x85", "answer": "c"}]
    location = opened.location
    write_manifest(location, {**opened.manifest, "prompts_sha256": write_prompts(location, prompts)})
    assert TokenStore.open(location).prompts() == prompts
    path = Path(location) / "prompts.jsonl"
    path.write_text(path.read_text().replace('"c"', '"d"'))
    with pytest.raises(DataError, match=r"damaged: .*prompts\.jsonl"):
        TokenStore.open(location).prompts()
    assert [name for name, _ in find_damage(location, read_manifest(location))] == ["prompts.jsonl"]


def test_a_storage_that_does_not_answer_is_no_damage(store, monkeypatch):
    """Such an error passes, so a run tries again; a damaged part does not come back."""
    opened, _ = store

    def fail(_location):
        raise OSError(5, "Input/output error")

    for name in ("_hash", "read_json"):
        monkeypatch.setattr(manifest, name, fail)
        with pytest.raises(StorageError, match=r"cannot read(.|\n)*Input/output error"):
            TokenStore.open(opened.location).read_rows([0])
        monkeypatch.undo()
    monkeypatch.setattr(store_module.pq, "ParquetFile", fail)
    with pytest.raises(StorageError, match=r"cannot read(.|\n)*Input/output error"):
        TokenStore.open(opened.location).row_sizes()
