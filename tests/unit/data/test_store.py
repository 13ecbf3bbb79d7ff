from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from raysft.data.packing import pack
from raysft.data.store import TokenStore, pack_rows, read_manifest, write_manifest, write_part
from raysft.errors import StorageError


def examples(num: int, seed: int) -> pa.Table:
    random = np.random.default_rng(seed)
    lengths = random.integers(2, 60, num)
    return pa.table(
        {
            "sample_id": pa.array(np.arange(num) + seed * 1000, pa.int64()),
            "input_ids": pa.array(
                [random.integers(0, 900, n).astype(np.int32) for n in lengths], pa.list_(pa.int32())
            ),
            "weight": pa.array(random.integers(1, 4, num) / 2, pa.float32()),
            "target": pa.array([(random.random(n) < 0.5).astype(np.uint8) for n in lengths], pa.list_(pa.uint8())),
        }
    )


def write(location: str, tables: list[pa.Table]) -> list[dict]:
    parts = []
    for index, table in enumerate(tables):
        lengths = table.column("input_ids").combine_chunks().value_lengths().to_numpy()
        parts.append(write_part(location, index, pack_rows(table, pack(lengths, 64))))
    return parts


@pytest.fixture
def store(tmp_path):
    tables = [examples(200, 1), examples(90, 2)]
    location = str(tmp_path / "store")
    parts = write(location, tables)
    write_manifest(location, {"parts": parts, "max_tokens": 64})
    return TokenStore.open(location), tables


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


def test_few_groups_are_kept_in_memory(store, monkeypatch):
    opened, _ = store
    opened._max_groups = 2
    opened.read_rows(range(opened.num_rows))
    assert len(opened._groups) == 2


def test_no_manifest_is_no_store(tmp_path):
    location = str(tmp_path / "store")
    write(location, [examples(5, 1)])
    assert read_manifest(location) is None
    with pytest.raises(StorageError, match="no token store"):
        TokenStore.open(location)


def test_another_format_version(tmp_path):
    (tmp_path / "manifest.json").write_text('{"format_version": 99}')
    with pytest.raises(StorageError, match="another version"):
        TokenStore.open(str(tmp_path))
