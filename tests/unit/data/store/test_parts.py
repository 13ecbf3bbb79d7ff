from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from raysft.data.store import manifest
from raysft.data.store import parts as store_module
from raysft.data.store.manifest import find_damage, read_manifest, write_manifest
from raysft.data.store.packed_rows import pack_rows
from raysft.data.store.packing import pack
from raysft.data.store.parts import TokenStore, write_part, write_prompts
from raysft.errors import DataError, StorageError


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
    opened._files._max_groups = 2
    opened.read_rows(range(opened.num_rows))
    assert len(opened._files._groups) == 2


def test_no_manifest_is_no_store(tmp_path):
    location = str(tmp_path / "store")
    write(location, [examples(5, 1)])
    assert read_manifest(location) is None
    with pytest.raises(StorageError, match="no token store"):
        TokenStore.open(location)


def test_a_store_of_another_version_is_none(tmp_path):
    """It is made anew; a reader says what to do."""
    for text in ('{"format_version": 2, "parts": [], "max_tokens": 8}',):
        (tmp_path / "manifest.json").write_text(text)
        assert read_manifest(str(tmp_path)) is None
        with pytest.raises(StorageError, match=r"no token store(.|\n)*raysft prepare"):
            TokenStore.open(str(tmp_path))


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path, Path], object]] = {
    "cut": lambda path, other: path.write_bytes(path.read_bytes()[:-9]),
    "emptied": lambda path, other: path.write_bytes(b""),
    "flipped": lambda path, other: flip(path, path.stat().st_size // 3),
    "deleted": lambda path, other: path.unlink(),
    "another's": lambda path, other: path.write_bytes(other.read_bytes()),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_no_row_of_a_damaged_part_is_read(store, tmp_path, damage):
    opened, tables = store
    first, second = (Path(opened.location) / part["name"] for part in opened.manifest["parts"])
    write(str(tmp_path / "other"), tables[1:])
    DAMAGES[damage](first, tmp_path / "other" / first.name)
    fresh = TokenStore.open(opened.location)
    assert fresh.read_rows([fresh.num_rows - 1])[0].num_tokens, "parts that are intact can be read"
    with pytest.raises(DataError, match=r"damaged: .*part-00000\.parquet(.|\n)*raysft prepare"):
        fresh.read_rows([0])
    if damage != "flipped":  # that hit the tokens
        with pytest.raises(DataError, match=r"damaged: .*part-00000\.parquet"):
            fresh.row_sizes()
    assert [name for name, _ in find_damage(opened.location, opened.manifest)] == [first.name]
    assert second.exists()


def test_a_part_that_goes_bad_while_it_is_open_gives_no_other_rows(store):
    """The same file, written into between two steps: its sum was compared when it was opened."""
    opened, _ = store
    path = Path(opened.location) / opened.manifest["parts"][0]["name"]
    good, rows = path.read_bytes(), range(opened.manifest["parts"][0]["rows"])
    right = opened.read_rows(rows)
    told = []
    for place in [None, *range(0, len(good), len(good) // 60)]:
        path.write_bytes(good)
        fresh = TokenStore.open(opened.location)
        fresh.read_rows([0])
        with path.open("r+b") as file:
            if place is None:
                file.truncate(len(good) // 2)
            else:
                file.seek(place)
                file.write(bytes([good[place] ^ 4]))
        try:
            found = fresh.read_rows(rows)
        except DataError as error:
            told.append(error.what)
        else:
            assert place is not None
            for row, expected in zip(found, right, strict=True):
                for name, values in expected.token_fields.items():
                    assert np.array_equal(row.token_fields[name], values)
    assert len(told) > 20
    assert all(path.name in what for what in told)


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


@pytest.mark.parametrize("bit", range(0, 4000, 97))
def test_a_manifest_with_a_flipped_bit_is_no_manifest(store, bit):
    opened, _ = store
    path = Path(opened.location) / "manifest.json"
    data = bytearray(path.read_bytes())
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    path.write_bytes(data)
    try:
        assert read_manifest(opened.location) in (None, opened.manifest)
    except DataError as error:
        assert "manifest.json" in error.what  # noqa: PT017


def test_a_manifest_belongs_to_its_store(tmp_path):
    one, other = (str(tmp_path / (letter * 64)) for letter in "ab")
    for location in (one, other):
        write_manifest(location, {"parts": [], "max_tokens": 8, "fingerprint": location[-64:]})
    assert read_manifest(one)["fingerprint"] == "a" * 64
    Path(other, "manifest.json").write_bytes(Path(one, "manifest.json").read_bytes())
    with pytest.raises(DataError, match=r"damaged(.|\n)*store aaaa"):
        TokenStore.open(other)


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
