"""Windows: what is packed is what was chosen, and a packer that lies is found out."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysft.data.store import windows
from raysft.data.store.packed_rows import pack_rows, row_at
from raysft.data.store.windows import pack_window
from raysft.errors import PlatformError


def samples(lengths: list[int], seed: int = 0) -> pa.Table:
    draw = np.random.default_rng(seed)
    return pa.table(
        {
            "sample_id": pa.array(range(len(lengths)), pa.int64()),
            "weight": pa.array([1.0] * len(lengths), pa.float32()),
            "input_ids": pa.array([draw.integers(0, 999, n).astype(np.int32) for n in lengths], pa.list_(pa.int32())),
            "target": pa.array([(draw.random(n) < 0.5).astype(np.uint8) for n in lengths], pa.list_(pa.uint8())),
        }
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=80), st.integers(0, 5))
def test_every_token_is_packed_once_and_segments_stay_whole(lengths: list[int], seed: int) -> None:
    table = samples(lengths, seed)
    rows = pack_window(table, 40)
    seen = {}
    for index in range(rows.num_rows):
        row = row_at(rows, index)
        assert row.num_tokens == rows.column("row.tokens")[index].as_py() <= 40
        ends = np.cumsum(row.segment_fields["length"])
        assert rows.column("row.squares")[index].as_py() == sum(int(n) ** 2 for n in row.segment_fields["length"])
        for number, sample in enumerate(row.segment_fields["sample_id"].tolist()):
            own = slice(ends[number] - row.segment_fields["length"][number], ends[number])
            assert sample not in seen
            seen[sample] = (row.token_fields["input_ids"][own].tolist(), row.token_fields["target"][own].tolist())
    expected = table.to_pylist()
    assert seen == {line["sample_id"]: (line["input_ids"], line["target"]) for line in expected}


def swap_two_tokens(table: pa.Table, atoms: list[np.ndarray], *_: object) -> pa.Table:
    rows = pack_rows(table, atoms)
    raw = bytearray(rows.column("token.input_ids")[0].as_py())
    raw[0:4], raw[4:8] = raw[4:8], raw[0:4]
    changed = [bytes(raw), *rows.column("token.input_ids").to_pylist()[1:]]
    return rows.set_column(0, "token.input_ids", pa.array(changed, pa.binary()))


def flip_a_mask(table: pa.Table, atoms: list[np.ndarray], *_: object) -> pa.Table:
    rows = pack_rows(table, atoms)
    place = rows.column_names.index("token.target")
    raw = bytearray(rows.column("token.target")[0].as_py())
    raw[-1] ^= 1
    changed = [bytes(raw), *rows.column("token.target").to_pylist()[1:]]
    return rows.set_column(place, "token.target", pa.array(changed, pa.binary()))


def repeat_a_sample(table: pa.Table, atoms: list[np.ndarray], *_: object) -> pa.Table:
    return pack_rows(table, [np.concatenate((atoms[0][:-1], atoms[0][:1])), *atoms[1:]])


@pytest.mark.parametrize("mutant", [swap_two_tokens, flip_a_mask, repeat_a_sample])
def test_a_packer_that_lies_is_found_out(mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    table = samples([10, 12, 10, 11, 9])
    pack_window(table, 24)
    monkeypatch.setattr(windows, "pack_rows", mutant)
    with pytest.raises(PlatformError, match="do not hold the samples"):
        pack_window(table, 24)
