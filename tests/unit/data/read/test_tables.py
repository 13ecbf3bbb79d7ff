"""Parquet and Arrow files: any schema, values that Python cannot hold."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq
from read_files import outcomes

from raysft.data.read.sources import expand, read_all


def test_a_column_missing_in_half_of_the_shards(tmp_path):
    pq.write_table(pa.table({"q": ["1"], "a": ["2"]}), tmp_path / "0.parquet")
    pq.write_table(pa.table({"q": [3], "m": [[{"role": "user"}]]}), tmp_path / "1.parquet")
    found = [raw.value for raw in read_all(expand([str(tmp_path)]))]
    assert found == [{"q": "1", "a": "2"}, {"q": 3, "m": [{"role": "user"}]}]


def test_parquet_values_python_cannot_hold(put):
    broken = pa.Array.from_buffers(
        pa.string(), 3, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0"), pa.py_buffer(b"a\xffc")]
    )
    sink = io.BytesIO()
    pq.write_table(pa.table({"t": broken}), sink)
    assert outcomes(put("a.parquet", sink.getvalue())) == [{"t": "a"}, "invalid_utf8", {"t": "c"}]
