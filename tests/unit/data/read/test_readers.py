"""Readers against Python's own parsers: every kind, every compression, and whatever bytes a file may hold."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from read_files import outcomes, values

from raysft.data.read import json_values, readers, tables
from raysft.data.read.readers import byte_ranges, read_range
from raysft.data.read.sources import expand, read_all
from raysft.data.records import Refusal
from raysft.errors import DataError

RECORDS = [
    {"n": i, "text": 'a "quoted", 你好🙂' * (i % 7) + "\n" * (i % 3), "tags": ["x"] * (i % 4)} for i in range(40)
]
FLAT = [{"q": record["text"], "a": str(record["n"])} for record in RECORDS]


def zstd(data):
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def arrow(rows, batch_rows=7, file=False):
    table = pa.Table.from_pylist(rows)
    sink = io.BytesIO()
    with (pa.ipc.new_file if file else pa.ipc.new_stream)(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=batch_rows)
    return sink.getvalue()


def parquet(rows, group_rows=9):
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink, row_group_size=group_rows)
    return sink.getvalue()


def csv_text(rows, delimiter=","):
    sink = io.StringIO()
    writer = csv.DictWriter(sink, rows[0], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return sink.getvalue().encode()


def json_lines(rows):
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()


FILES = {  # name -> (bytes, records)
    "a.jsonl": (json_lines(RECORDS), RECORDS),
    "a.ndjson": (json_lines(RECORDS), RECORDS),
    "a.json": (json.dumps(RECORDS, indent=1).encode(), RECORDS),
    "lines.json": (json_lines(RECORDS), RECORDS),
    "pretty.json": (b"\n".join(json.dumps(row, indent=2).encode() for row in RECORDS), RECORDS),
    "a.csv": (csv_text(FLAT), FLAT),
    "a.tsv": (csv_text(FLAT, "\t"), FLAT),
    "a.txt": ("eins\n\n zwei \r\n\n你好".encode(), [{"text": t} for t in ("eins", " zwei ", "你好")]),
    "a.md": (b"# eins\n\nzwei\n", [{"text": "# eins\n\nzwei\n"}]),
    "a.parquet": (parquet(RECORDS), RECORDS),
    "a.arrow": (arrow(RECORDS), RECORDS),
    "file.arrow": (arrow(RECORDS, file=True), RECORDS),
}
PACKED = [name for name in FILES if not name.endswith(("parquet", "arrow"))]


@pytest.mark.parametrize("name", FILES)
def test_every_kind(put, name):
    data, records = FILES[name]
    path = put(name, data)
    whole = values(path)
    assert [value for _, value in whole] == records
    positions = [position for position, _ in whole]
    assert positions == sorted(set(positions))
    for range_bytes in (1, 5, 300):
        assert values(path, range_bytes) == whole
    if name.endswith(("jsonl", "txt", "parquet", "arrow")):
        assert name.endswith("file.arrow") or len(byte_ranges(str(path), name.rpartition(".")[2], len(data), 9)) > 1


@pytest.mark.parametrize("name", PACKED)
def test_every_compression(put, name):
    data, records = FILES[name]
    middle = len(data) // 2
    for suffix, pack in (("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress), ("zst", zstd)):
        path = put(f"{name}.{suffix}", pack(data))
        assert [raw.value for raw in read_all(expand([str(path)]))] == records, suffix
        path = put(f"{name}.{suffix}", pack(data[:middle]) + pack(data[middle:]))
        assert [raw.value for raw in read_all(expand([str(path)]))] == records, f"{suffix} of two members"


@pytest.mark.parametrize(
    ("suffix", "pack"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress), ("zst", zstd)]
)
def test_truncated_compression_names_the_file(put, suffix, pack):
    packed = pack(json_lines(RECORDS * 50))
    path = put(f"a.jsonl.{suffix}", packed[: len(packed) // 2])
    with pytest.raises(DataError, match=rf"cannot read .*a\.jsonl\.{suffix}\n"):
        list(read_all(expand([str(path)])))


def test_text_that_is_none(put):
    assert outcomes(put("a.txt", b"ok\n\xff\xfe\nnul\0\nok")) == [
        {"text": "ok"},
        "invalid_utf8",
        "nul_byte",
        {"text": "ok"},
    ]
    assert outcomes(put("a.md", b"\xff\xfa")) == ["invalid_utf8"]
    for name, mark, encoding in [
        ("a.txt", "UTF-16", "utf-16"),
        ("a.jsonl", "UTF-32", "utf-32"),
        ("a.csv", "UTF-16", "utf-16"),
    ]:
        with pytest.raises(DataError, match=f"not in UTF-8\n.*{mark}\n.*\n.*iconv -f {mark}"):
            values(put(name, '{"a": 1}'.encode(encoding)))


def test_byte_order_marks(put):
    for name, (data, records) in FILES.items():
        if name in PACKED:
            assert [value for _, value in values(put(name, b"\xef\xbb\xbf" + data))] == records, name


def test_csv_rows_that_do_not_fit(put):
    rows = [
        "q,a",
        "1,2",
        "",
        "3",
        "4,5,6",
        '"two\nlines",7',
        "\udcff,8",
        "nul\0,9",
        '"x"y,10',
        '"a ""b""",11',
        '"open,12',
    ]
    path = put("a.csv", "\r\n".join(rows).encode(errors="surrogateescape"))
    assert outcomes(path) == [
        {"q": "1", "a": "2"},
        "wrong_columns",
        "wrong_columns",
        {"q": "two\nlines", "a": "7"},
        "invalid_utf8",
        "nul_byte",
        "malformed_csv",
        {"q": 'a "b"', "a": "11"},
        "malformed_csv",
    ]
    assert [position for position, _ in values(path)] == list(range(9))
    for header in (b"q,q\n1,2\n", b"\xff,a\n1,2\n", b'"q\n'):
        with pytest.raises(DataError, match="is no header"):
            values(put("b.csv", header))


def test_records_over_the_limit(put, monkeypatch):
    for module in (json_values, readers, tables):
        monkeypatch.setattr(module, "MAX_RECORD_BYTES", 1000)
    monkeypatch.setattr(readers, "_BLOCK_BYTES", 64)
    monkeypatch.setattr(readers, "_JSON_BLOCK_BYTES", 64)
    rows = [{"a": "x"}, {"a": "y" * 3000}, {"a": "z"}]
    refused = [rows[0], "record_too_large", rows[2]]
    for range_bytes in (10, 100, 5000):
        path = put("a.jsonl", json_lines(rows))
        found = values(path, range_bytes)
        assert [v.reason if isinstance(v, Refusal) else v for _, v in found] == refused, range_bytes
    assert outcomes(put("a.parquet", parquet(rows))) == refused
    assert outcomes(put("a.arrow", arrow(rows))) == refused
    assert outcomes(put("a.csv", csv_text(rows))) == refused
    assert outcomes(put("a.md", b"x" * 1001)) == ["record_too_large"]
    found = read_range(str(put("a.json", json.dumps(rows).encode())), "json")
    assert next(found)[1] == rows[0]
    with pytest.raises(DataError, match="over 1,000 bytes"):
        next(found)


def test_a_large_record_is_read(put):
    record = {"a": "x" * 50_000_000}
    (found,) = values(put("a.jsonl", json.dumps(record).encode()))
    assert found == (0, record)


@pytest.mark.shared
def test_real_files(shared_data):
    texts = [raw.value for raw in read_all(expand([str(shared_data / "wiki_demo.txt")]))]
    lines = (shared_data / "wiki_demo.txt").read_text().splitlines()
    assert texts == [{"text": line} for line in lines]
    assert len(texts) == 30
    for path in sorted(shared_data.glob("*.json")):
        assert [raw.value for raw in read_all(expand([str(path)]))] == json.loads(path.read_text()), path.name
    for path in sorted(shared_data.glob("*.jsonl")):
        expected = [json.loads(line) for line in path.read_bytes().splitlines()]
        assert [raw.value for raw in read_all(expand([str(path)]))] == expected, path.name


MUTABLE = {**{name: data for name, (data, _) in FILES.items()}, "a.jsonl.gz": gzip.compress(FILES["a.jsonl"][0])}


@settings(max_examples=300, deadline=None)
@given(
    name=st.sampled_from(sorted(MUTABLE)),
    seed=st.integers(0, 2**32),
    kind=st.sampled_from(["flip", "cut", "insert", "delete", "repeat"]),
    times=st.integers(1, 8),
)
def test_mutated_files_are_refused_never_crash(tmp_path_factory, name, seed, kind, times):
    generator = random.Random(seed)
    data = bytearray(MUTABLE[name])
    for _ in range(times):
        place = generator.randrange(len(data) + 1)
        if kind == "flip" and place < len(data):
            data[place] = generator.randrange(256)
        elif kind == "insert":
            data[place:place] = generator.choice([b"\0", b"\xff", b'"', b"[{", b"}]", b"\n", b"\xed\xa0\x80"])
        elif kind == "delete":
            del data[place : place + generator.randrange(64)]
        elif kind == "repeat":
            data[place:place] = data[place : place + 50]
        elif kind == "cut":
            del data[place:]
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(data)
    try:
        found = [value for _, value in values(path, 200)]
    except DataError:
        return
    assert all(isinstance(value, Refusal) or type(value) is dict for value in found)
