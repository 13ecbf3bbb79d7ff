"""Columns beside a store: rows have them, nothing else changes, what is damaged or unfinished is never believed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from run_dirs import DAMAGES

from raysft.data.store import columns
from raysft.data.store.columns import (
    columns_location,
    finished_parts,
    publish_columns,
    rows_per_group,
    write_columns_part,
)
from raysft.data.store.manifest import write_manifest
from raysft.data.store.packed_rows import columns_of
from raysft.data.store.parts import TokenStore, write_part
from raysft.data.store.windows import pack_window
from raysft.errors import DataError, PlatformError, StorageError
from raysft.recipe.columns import Field

FIELDS = (
    Field("score", "segment", "<f4"),
    Field("ids", "token", "<i4", width=3, predicts=True),
    Field("mark", "atom", "<i8"),
)
INPUTS = {"base": "a"}
PARTS = 3


def make_store(location: Path, seed: int = 0) -> TokenStore:
    """Three parts of pairs; lengths differ."""
    draw = np.random.default_rng(seed)
    parts = []
    for index in range(PARTS):
        lengths = draw.integers(1, 9, 80)
        table = pa.table(
            {
                "sample_id": pa.array(np.arange(80) // 2 + 100 * index, pa.int64()),
                "weight": pa.array([1.0] * 80, pa.float32()),
                "input_ids": pa.array([draw.integers(0, 99, n).tolist() for n in lengths], pa.list_(pa.int32())),
                "target": pa.array([[1] * n for n in lengths], pa.list_(pa.uint8())),
                "atom": pa.array(np.arange(80) // 2),
            }
        )
        parts.append(write_part(str(location), index, pack_window(table, 32)))
    write_manifest(str(location), {"fingerprint": "f" * 64, "max_tokens": 32, "parts": parts})
    return TokenStore.open(str(location))


def values_of(store: TokenStore, part: int) -> Iterator[tuple[list[Any], dict[str, np.ndarray]]]:
    """Rows five at a time with numbers that tell their place."""
    first = sum(store.windows[:part])
    for start in range(first, first + store.windows[part], 5):
        rows = store.read_rows(range(start, min(start + 5, first + store.windows[part])))
        ids = np.concatenate([row.token_fields["input_ids"] for row in rows])
        yield (
            rows,
            {
                "score": np.concatenate([row.segment_fields["sample_id"] * 0.5 for row in rows]),
                "ids": np.stack([ids, ids + 1, ids * 2], axis=1),
                "mark": np.concatenate([np.unique(row.segment_fields["sample_id"]) for row in rows]),
            },
        )


def tables_of(store: TokenStore, part: int) -> Iterator[pa.Table]:
    return (columns_of(rows, FIELDS, values) for rows, values in values_of(store, part))


def make(store: TokenStore, parts: range = range(PARTS)) -> str:
    location = columns_location(store.location, store.manifest, FIELDS, INPUTS)
    entries = finished_parts(location, store.manifest)
    for index in parts:
        if index not in entries:
            entries[index] = write_columns_part(
                location, index, tables_of(store, index), rows_per_group(store.manifest, FIELDS)
            )
    if len(entries) == PARTS:
        publish_columns(location, store.manifest, FIELDS, INPUTS, entries)
    return location


def check(store: TokenStore, location: str) -> None:
    with_columns = TokenStore.open(store.location, location)
    assert with_columns.fields == (*store.fields, *FIELDS)
    for index in np.random.default_rng(1).permutation(store.num_rows).tolist():
        (plain,), (row,) = store.read_rows([index]), with_columns.read_rows([index])
        for own, found in ((plain.token_fields, row.token_fields), (plain.segment_fields, row.segment_fields)):
            assert all(np.array_equal(found[name], values) for name, values in own.items())
        ids = row.token_fields["input_ids"]
        assert row.segment_fields["score"].tolist() == (row.segment_fields["sample_id"] * 0.5).tolist()
        assert row.token_fields["ids"].tolist() == np.stack([ids, ids + 1, ids * 2], axis=1).tolist()
        assert sorted(row.atom_fields["mark"].tolist()) == sorted(set(row.segment_fields["sample_id"].tolist()))
        assert row.segment_fields["score"].dtype == np.dtype("<f4")


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    return make_store(tmp_path / "store")


@pytest.mark.parametrize("group_bytes", [1 << 20, 1])
def test_rows_have_the_columns_and_the_store_stays_as_it_is(
    store: TokenStore, group_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columns, "_GROUP_BYTES", group_bytes)
    before = files_of(Path(store.location))
    location = make(store)
    check(store, location)
    after = files_of(Path(store.location))
    assert {name: after[name] for name in before} == before
    assert sorted(name for name in files_of(Path(location))) == sorted(
        ["manifest.json", *(f"part-{index:05d}.parquet" for index in range(PARTS))]
    )


def test_a_killed_computation_goes_on_with_the_finished_parts(store: TokenStore) -> None:
    location = make(store, range(2))
    with pytest.raises(StorageError, match="no columns of a store"):
        TokenStore.open(store.location, location)

    def broken() -> Iterator[pa.Table]:
        yield next(tables_of(store, 2))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_columns_part(location, 2, broken(), 32)
    assert sorted(finished_parts(location, store.manifest)) == [0, 1]
    stamps = [Path(location, f"part-0000{index}.parquet").stat().st_mtime_ns for index in range(2)]
    assert make(store) == location
    assert [Path(location, f"part-0000{index}.parquet").stat().st_mtime_ns for index in range(2)] == stamps
    check(store, location)


@pytest.mark.parametrize(
    "damage", sorted(DAMAGES.keys() - {"a directory", "a link to itself"})
)  # nobody can read those
@pytest.mark.parametrize("name", ["manifest.json", "part-00001.parquet"])
def test_damage_is_told_by_who_reads_and_mended_by_who_makes(
    store: TokenStore, tmp_path: Path, name: str, damage: str
) -> None:
    other = make_store(tmp_path / "other", seed=5)
    location, others = Path(make(store)), Path(make(other))
    whole = files_of(location)
    DAMAGES[damage](location / name, others / name)
    with pytest.raises((DataError, StorageError), match=r"damaged|no columns of a store"):
        check(store, str(location))
    assert make(store) == str(location)
    assert files_of(location) == whole
    check(store, str(location))


def test_columns_of_other_rows_are_not_believed(store: TokenStore, tmp_path: Path) -> None:
    other = make_store(tmp_path / "other", seed=5)
    theirs = make(other)
    with pytest.raises(DataError, match="its rows are those of another store"):
        TokenStore.open(store.location, theirs)
    assert Path(make(store)).name != Path(theirs).name


def test_the_key_changes_with_all_that_decides_the_numbers(store: TokenStore, tmp_path: Path) -> None:
    where = [
        columns_location(store.location, store.manifest, FIELDS, INPUTS),
        columns_location(store.location, store.manifest, FIELDS[:2], INPUTS),
        columns_location(store.location, store.manifest, FIELDS, {"base": "b"}),
        columns_location(store.location, make_store(tmp_path / "x", 5).manifest, FIELDS, INPUTS),
    ]
    assert len(set(where)) == 4


def test_a_damaged_record_of_a_finished_part_is_no_record(store: TokenStore) -> None:
    location = make(store, range(2))
    entry = Path(location, "done", "part-00001.json")
    record = json.loads(entry.read_text())
    entry.write_text(json.dumps({**record, "entry": {**record["entry"], "rows": 1}}))
    assert sorted(finished_parts(location, store.manifest)) == [0]
    shutil.rmtree(entry.parent)
    assert finished_parts(location, store.manifest) == {}


@pytest.mark.parametrize("lost", ["score", "ids", "mark"])
def test_values_that_do_not_fit_their_rows_are_not_written(store: TokenStore, lost: str) -> None:
    rows, values = next(values_of(store, 0))
    with pytest.raises(PlatformError, match=f"does not fit its rows: {lost}"):
        columns_of(rows, FIELDS, {**values, lost: values[lost][1:]})
