"""Whether two stores hold the same rows: by their sums, else by reading both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from token_stores import examples, write

from raysft.data.store.manifest import write_manifest
from raysft.data.store.same_rows import have_same_rows


def make(folder: Path, name: str, *seeds: int) -> Path:
    location = str(folder / name)
    write_manifest(location, {"parts": write(location, [examples(20, seed) for seed in seeds]), "max_tokens": 64})
    return folder / name


def rewritten(store: Path, change: Any = lambda table: table) -> None:
    """The first part with other bytes, and a manifest of another version that has its sum."""
    part = store / "part-00000.parquet"
    pq.write_table(change(pq.read_table(part)), part, compression="none")
    manifest = json.loads((store / "manifest.json").read_text())
    manifest["parts"][0]["sha256"] = "0" * 64
    (store / "manifest.json").write_text(json.dumps({"format_version": 1, "parts": manifest["parts"]}))


def test_equal_bytes_and_other_rows(tmp_path: Path) -> None:
    one = make(tmp_path, "one", 1, 2)
    assert have_same_rows(str(one), str(make(tmp_path, "again", 1, 2)))
    assert not have_same_rows(str(one), str(make(tmp_path, "swapped", 2, 1)))
    assert not have_same_rows(str(one), str(make(tmp_path, "shorter", 1)))


def test_other_bytes_of_the_same_rows(tmp_path: Path) -> None:
    one, other = make(tmp_path, "one", 1, 2), make(tmp_path, "other", 1, 2)
    rewritten(other)
    assert have_same_rows(str(one), str(other))
    rewritten(other, lambda table: table.take(pa.array(range(table.num_rows - 1, -1, -1))))
    assert not have_same_rows(str(one), str(other)), "the same rows in another order"


def test_what_cannot_be_read_is_not_the_same(tmp_path: Path) -> None:
    one, other = make(tmp_path, "one", 1), make(tmp_path, "other", 1)
    rewritten(other)
    (other / "part-00000.parquet").write_bytes(b"no Parquet")
    assert not have_same_rows(str(one), str(other))
    assert not have_same_rows(str(one), str(tmp_path / "nowhere"))
    (other / "manifest.json").write_text('{"parts": [{"rows": "many"}]}')
    assert not have_same_rows(str(other), str(other)), "nobody can tell"
