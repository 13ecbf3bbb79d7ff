"""Columns by name, of any width, per token, sample or group of samples: they come back, and groups whole."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysft.data.feed.collate import collate, largest_micro_batch
from raysft.data.store import windows
from raysft.data.store.manifest import read_manifest, write_manifest
from raysft.data.store.packed_rows import Row, pack_rows, row_at
from raysft.data.store.parts import TokenStore, write_part
from raysft.data.store.windows import pack_window
from raysft.errors import DataError, PlatformError
from raysft.recipe.columns import TARGET, Field

FIELDS = (
    Field("old_log_prob", "token", "<f4", predicts=True, padding=-1.0),
    Field("teacher_ids", "token", "<i4", width=3),
    Field("reference", "segment", "<f8"),
    Field("margin", "atom", "<f4"),
)
CAPACITY = 48


def samples(groups: list[list[int]], seed: int = 0) -> pa.Table:
    """A line per segment; groups: the lengths of each atom's segments. Values tell line, token and place apart."""
    draw = np.random.default_rng(seed)
    lengths = [length for group in groups for length in group]
    lines = range(len(lengths))

    def lists(kind: type, value: Any, width: int = 1) -> list[np.ndarray]:
        return [np.array([value(i, t, k) for t in range(lengths[i]) for k in range(width)], kind) for i in lines]

    return pa.table(
        {
            "sample_id": pa.array(lines, pa.int64()),
            "weight": pa.array([1.0] * len(lengths), pa.float32()),
            "input_ids": pa.array(lists(np.int32, lambda i, t, _: 100 * i + t), pa.list_(pa.int32())),
            "target": pa.array([(draw.random(n) < 0.5).astype(np.uint8) for n in lengths], pa.list_(pa.uint8())),
            "atom": pa.array([7 * a for a, group in enumerate(groups) for _ in group], pa.int64()),
            "old_log_prob": pa.array(lists(np.float32, lambda i, t, _: i + t / 64), pa.list_(pa.float32())),
            "teacher_ids": pa.array(lists(np.int32, lambda i, t, k: 1000 * i + 10 * t + k, 3), pa.list_(pa.int32())),
            "reference": pa.array([float("nan") if i == 1 else -i / 3 for i in lines], pa.float64()),
            "margin": pa.array([a / 4 for a, group in enumerate(groups) for _ in group], pa.float32()),
        }
    )


def segments(row: Row) -> list[dict[str, Any]]:
    """What a row says of each of its segments, by hand."""
    found, start = [], 0
    for i, length in enumerate(row.segment_fields["length"].tolist()):
        own = slice(start, start + length)
        found.append(
            {name: values[own].tolist() for name, values in row.token_fields.items()}
            | {name: row.segment_fields[name][i].item() for name in ("sample_id", "reference")}
            | {"margin": row.atom_fields["margin"][row.segment_fields["atom"][i]].item()}
        )
        start += length
    return found


GROUPS = st.lists(st.lists(st.integers(1, 16), min_size=1, max_size=3), min_size=1, max_size=30)


@settings(max_examples=40, deadline=None)
@given(GROUPS, st.integers(0, 3))
def test_every_column_comes_back_and_groups_stay_whole(groups: list[list[int]], seed: int) -> None:
    table = samples(groups, seed)
    rows = pack_window(table, CAPACITY, FIELDS)
    seen: dict[int, dict[str, Any]] = {}
    for index in range(rows.num_rows):
        row = row_at(rows, index)
        assert row.num_tokens <= CAPACITY
        together = segments(row)
        ids = [one["sample_id"] for one in together]
        atoms = row.segment_fields["atom"].tolist()
        for atom in range(max(atoms) + 1):
            own = [i for i, number in zip(ids, atoms, strict=True) if number == atom]
            assert own in [
                list(range(sum(map(len, groups[:a])), sum(map(len, groups[: a + 1])))) for a in range(len(groups))
            ]
        seen |= {one["sample_id"]: one for one in together}
    for line in table.to_pylist():
        got = seen[line["sample_id"]]
        assert got["input_ids"] == line["input_ids"]
        assert got["old_log_prob"] == line["old_log_prob"]
        assert got["teacher_ids"] == [line["teacher_ids"][3 * t : 3 * t + 3] for t in range(len(line["input_ids"]))]
        assert got["margin"] == line["margin"]
        assert got["reference"] == line["reference"] or line["sample_id"] == 1  # not a number, kept
    assert len(seen) == len(table)


def test_a_store_lists_its_fields_and_gives_them_back(tmp_path: Path) -> None:
    table, location = samples([[4, 9], [5, 3], [20]]), str(tmp_path / "store")
    part = write_part(location, 0, pack_window(table, CAPACITY, FIELDS))
    described = [asdict(field) for field in (TARGET, *FIELDS)]
    write_manifest(location, {"max_tokens": CAPACITY, "parts": [part], "fields": described})
    store = TokenStore.open(location)
    assert store.fields == (TARGET, *FIELDS)
    ids = sorted(one["sample_id"] for row in store.read_rows(range(store.num_rows)) for one in segments(row))
    assert ids == [0, 1, 2, 3, 4]
    plain = {key: value for key, value in store.manifest.items() if key != "fields"}
    assert TokenStore(location, plain).fields == (TARGET,)  # of a store that does not list them


def test_a_plain_store_lists_the_target(tmp_path: Path) -> None:
    write_manifest(str(tmp_path), {"max_tokens": 8, "parts": []})
    manifest = read_manifest(str(tmp_path))
    assert manifest is not None
    assert manifest["fields"] == [asdict(TARGET)]


def change(name: str) -> Any:
    """A packer that spoils one column."""

    def packed(table: pa.Table, lines: list[np.ndarray], fields: tuple[Field, ...]) -> pa.Table:
        rows = pack_rows(table, lines, fields)
        place = rows.column_names.index(name)
        first, *others = rows.column(name).to_pylist()
        kind = rows.schema.field(name)
        spoilt = bytes([first[0] ^ 1]) + first[1:] if name != "segment.atom" else bytes(len(first))
        return rows.set_column(place, kind, pa.array([spoilt, *others], kind.type))

    return packed


@pytest.mark.parametrize("name", [*(field.column for field in FIELDS), "segment.atom"])
def test_a_packer_that_lies_about_a_column_is_found_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    table = samples([[4, 9], [5, 3], [7]])
    monkeypatch.setattr(windows, "pack_rows", change(name))
    with pytest.raises(PlatformError, match="do not hold the samples"):
        pack_window(table, CAPACITY, FIELDS)


def test_a_group_that_fits_no_row_or_is_torn_is_refused() -> None:
    with pytest.raises(DataError, match="longer than a row"):
        pack_window(samples([[30, 30]]), CAPACITY, FIELDS)
    table = samples([[4], [5], [6]])
    torn = table.set_column(table.column_names.index("atom"), "atom", pa.array([1, 2, 1], pa.int64()))
    with pytest.raises(PlatformError, match="do not stand together"):
        pack_window(torn, CAPACITY, FIELDS)


@pytest.mark.parametrize("field", [Field("reference", "token", "<f4"), Field("target", "token", "u1")])
def test_a_column_that_does_not_fit_is_refused(field: Field) -> None:
    with pytest.raises(PlatformError, match="does not fit"):
        pack_window(samples([[4], [5]]), CAPACITY, (field,))


@pytest.mark.parametrize("packing", [True, False])
def test_micro_batches_carry_columns(packing: bool) -> None:
    """Of each prediction its own value; the last token of a segment, and padding, predict nothing."""
    groups = [[4, 9], [5, 3], [20], [6, 2, 2]]
    table = samples(groups)
    rows = [row_at(packed, i) for packed in [pack_window(table, CAPACITY, FIELDS)] for i in range(packed.num_rows)]
    batch = collate(rows, 0, packing=packing, fields=FIELDS)
    order = batch.sample_ids.tolist()
    lines = table.to_pylist()
    places = 0
    for number, sample in enumerate(order):
        where = batch.segment_of == number
        line = lines[sample]
        assert batch.input_ids[where].tolist() == line["input_ids"]
        assert batch.fields["old_log_prob"][where].tolist() == [*line["old_log_prob"][1:], -1.0]
        assert batch.fields["teacher_ids"][where].ravel().tolist() == line["teacher_ids"]
        assert batch.fields["margin"][batch.atom_of[number]] == np.float32(line["margin"])
        places += int(where.sum())
    assert batch.fields["reference"].tolist() == pytest.approx([lines[i]["reference"] for i in order], nan_ok=True)
    padding = batch.segment_of < 0
    assert places + padding.sum() == padding.size
    assert set(batch.fields["old_log_prob"][padding].tolist()) <= {-1.0}
    atoms = [next(a for a, g in enumerate(groups) if s < sum(map(len, groups[: a + 1]))) for s in order]
    assert len(set(zip(atoms, batch.atom_of.tolist(), strict=True))) == len(groups) == batch.atom_of.max() + 1


def test_empty_and_largest_micro_batches_have_the_columns() -> None:
    empty, largest = collate([], 3, packing=True, fields=FIELDS), largest_micro_batch(2, 8, FIELDS)
    for batch, count in ((empty, 0), (largest, 2)):
        shape = batch.input_ids.shape
        assert batch.fields["old_log_prob"].shape == batch.segment_of.shape == shape
        assert batch.fields["teacher_ids"].shape == (*shape, 3)
        assert batch.fields["reference"].shape == batch.fields["margin"].shape == batch.atom_of.shape == (count,)


def test_largest_rows_may_have_several_samples() -> None:
    """As many as the fullest row of a store, every token but each last one a target."""
    batch = largest_micro_batch(2, 8, FIELDS, 3)
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 1, 2, 0, 1]] * 2
    assert batch.segment_of.tolist() == [[0, 0, 0, 1, 1, 1, 2, 2], [3, 3, 3, 4, 4, 4, 5, 5]]
    assert (batch.labels >= 0).tolist() == [[True, True, False] * 2 + [True, False]] * 2
    assert batch.weights.tolist() == (batch.labels >= 0).astype(float).tolist()
    assert batch.fields["reference"].shape == batch.atom_of.shape == (6,)
    assert largest_micro_batch(1, 5, (), 5).position_ids.tolist() == [[0] * 5]
