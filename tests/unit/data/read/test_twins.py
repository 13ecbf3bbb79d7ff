"""One name under two endings: the same records are refused, others are told."""

from __future__ import annotations

import csv
import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysft.data.read.sources import expand
from raysft.errors import DataError
from raysft.recipe.sections.data import SourceSection

ROWS = [{"instruction": f"q{i}", "output": "a", "score": i, "input": None} for i in range(150)]


def test_one_name_under_two_endings_is_the_same_data_or_told(tmp_path, caplog):
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / "a.jsonl").write_text(lines)
    written = {
        "a.jsonl.gz": gzip.compress(lines.encode()),
        "a.json": json.dumps(ROWS).encode(),
        "a.parquet": parquet_bytes(ROWS),
        "a.csv": csv_bytes(ROWS),
    }
    for name, data in written.items():
        (tmp_path / name).write_bytes(data)
        for location in (str(tmp_path), f"{tmp_path}/a.*", [f"{tmp_path}/a.jsonl", f"{tmp_path}/{name}"]):
            with pytest.raises(DataError, match=r"trained twice\n.*a\.json") as error:
                expand(location if isinstance(location, list) else [location])
            assert name in str(error.value)
            assert "a.jsonl" in str(error.value)
        again = [f"{tmp_path}/a.jsonl", SourceSection(path=(f"{tmp_path}/{name}",), name="again")]
        assert len(expand(again)) == 2
        (tmp_path / name).unlink()
    other = [{**ROWS[0], "output": "b"}, *ROWS[1:]]
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in other).encode()))
    caplog.clear()
    assert len(expand([str(tmp_path)])) == 2
    assert "a.jsonl and a.jsonl.gz: one name, other records" in caplog.text
    (tmp_path / "a.jsonl.gz").rename(tmp_path / "b.jsonl.gz")
    caplog.clear()
    assert len(expand([str(tmp_path)])) == 2
    assert not caplog.text


def parquet_bytes(rows):
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


def csv_bytes(rows):
    sink = io.StringIO()
    writer = csv.DictWriter(sink, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    return sink.getvalue().encode()
