"""Readers against Python's own parsers: every kind, every compression, and whatever bytes a file may hold."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import random
import re
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysft.data.read import json_values, readers, tables
from raysft.data.read.json_values import parse_line
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


def values(path, range_bytes=1 << 20):
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    pieces = byte_ranges(str(path), kind, path.stat().st_size, range_bytes)
    return [found for piece in pieces for found in read_range(str(path), kind, *piece)]


def outcomes(path):
    return [value.reason if isinstance(value, Refusal) else value for _, value in values(path)]


@pytest.fixture
def put(tmp_path):
    def write(name, data):
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    return write


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


def test_lenient_json(put):
    lines = [
        b'{"a": NaN}',
        rb'{"a": "\ud800"}',
        b'{"a": "\x00"}',
        rb'{"a": "\u0000"}',
        b'{"a": 1234567890123456789}',
    ]
    nan, surrogate, *rest = outcomes(put("a.jsonl", b"\n".join(lines)))
    assert nan["a"] != nan["a"]
    assert surrogate == {"a": "\ud800"}
    assert rest == ["malformed_json", {"a": "\0"}, {"a": 1234567890123456789}]


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


BROKEN = [  # an array, its records or refusals, the complaint at its end
    (
        b'[{"a": 1},\n {"a": }, {"b": "\\"}]{"}, [{}]]',
        [{"a": 1}, "malformed_json", {"b": '"}]{'}, "not_an_object"],
        "",
    ),
    (b" [] ", [], ""),
    (b"[\n]", [], ""),
    (b'[1, "x,]", null, {"a": NaN} , foo]', ["not_an_object"] * 3 + [{"a": float("inf")}, "malformed_json"], ""),
    (b'[{"a": "\xff"}, {}]', ["invalid_utf8", {}], ""),
    (
        b'[{"a": 1},\n {"a": 2} x]',
        [{"a": 1}, {"a": 2}],
        r"after 2 records, in line 2 \(byte 21\): expected `,` or `]`, found 'x",
    ),
    (b'[{"a": 1}, {"a": "x', [{"a": 1}], "ends inside the value"),
    (b'[{"a": 1}', [{"a": 1}], "found the end"),
    (b'[{"a": 1},]', [{"a": 1}], "expected a value"),
    (b'[{"a": 1}] [', [{"a": 1}], "expected the end"),
    (b'{"a": 1\n} {"b": 2} 7 [{}]', [{"a": 1}, {"b": 2}, "not_an_object", "not_an_object"], ""),
    (b'{"a": \n', [], "ends inside the value"),
    (b"<html>", [], "not valid JSON"),
    (b" \n ", [], ""),
]


@pytest.mark.parametrize(("data", "expected", "complaint"), BROKEN)
def test_broken_json(put, monkeypatch, data, expected, complaint):
    for block_bytes in (1, 3, 1000):
        monkeypatch.setattr(readers, "_JSON_BLOCK_BYTES", block_bytes)
        found, message = [], ""
        try:
            for position, value in read_range(str(put("a.json", data.replace(b"NaN", b"Infinity"))), "json"):
                assert position == len(found)
                found.append(value.reason if isinstance(value, Refusal) else value)
        except DataError as error:
            message = str(error)
        assert found == expected
        assert bool(message) == bool(complaint)
        assert re.search(complaint, message)


def test_bombs(put, monkeypatch):
    bombs = [b"[" * 1_000_000, b'{"a":' * 500 + b"1" + b"}" * 500, b'{"a":' + b"[" * 900 + b"]" * 900 + b"}"]
    reasons = [parse_line(bomb).reason for bomb in bombs]
    assert reasons == ["malformed_json", "nested_too_deep", "nested_too_deep"]
    assert outcomes(put("a.json", b"[" + b",".join(bombs[1:]) + b"]")) == ["nested_too_deep"] * 2
    with pytest.raises(DataError, match="nested over 10,000 deep"):
        values(put("a.json", bombs[0]))


def test_a_large_record_is_read(put):
    record = {"a": "x" * 50_000_000}
    (found,) = values(put("a.jsonl", json.dumps(record).encode()))
    assert found == (0, record)


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


def test_a_dataset_saved_to_disk(tmp_path):
    split = tmp_path / "set" / "train"
    split.mkdir(parents=True)
    names = ["data-00001-of-00002.arrow", "data-00000-of-00002.arrow"]
    for name, rows in zip(names, (RECORDS[20:], RECORDS[:20]), strict=True):
        (split / name).write_bytes(arrow(rows))
    (split / "cache-123.arrow").write_bytes(arrow(RECORDS))
    (split / "dataset_info.json").write_text("{}")
    (split / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    assert [raw.value for raw in read_all(expand([str(split)]))] == RECORDS
    (tmp_path / "set" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    assert [raw.value for raw in read_all(expand([str(tmp_path / "set")]))] == RECORDS, "the only split"
    shutil.copytree(split, tmp_path / "set" / "test")
    with pytest.raises(DataError, match=r"several splits(.|\n)*name the one to read: .*set/test"):
        expand([str(tmp_path / "set")])
    (of_train, _), (of_test, _) = (expand([str(tmp_path / "set")], purpose=purpose) for purpose in ("train", "eval"))
    assert "/set/train/" in of_train.location
    assert "/set/test/" in of_test.location
    (tmp_path / "set" / "dataset_dict.json").unlink()
    assert len(expand([str(tmp_path / "set")])) == 4, "caches lie in both folders"
    (split / names[0]).rename(tmp_path / "away")
    with pytest.raises(DataError, match=r"lacks a file of the saved dataset(.|\n)*data-00001"):
        expand([str(split)])
    (split / "state.json").write_text("[]")
    with pytest.raises(DataError, match="not what `save_to_disk` writes"):
        expand([str(split)])


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


@pytest.mark.parametrize("number", [2**63, 2**64 - 1, 2**64, -(2**63) - 1, 10**30, 123456789012345678901])
@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_whole_numbers_are_never_rounded(tmp_path, suffix, number):
    path = tmp_path / f"a.{suffix}"
    record = {"a": {"b": [number]}, "digits": "9" * 40, "float": 0.1234567890123456789012345}
    path.write_text(json.dumps([record] * 3) if suffix == "json" else json.dumps(record))
    (_, found), *_ = read_range(str(path), suffix)
    assert found == record
    assert type(found["a"]["b"][0]) is int


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        (b'{"a": 1, "b": 2, "a": 3}', "'a'"),
        (b'{"a" :1,"a"\t: "1"}', "'a'"),
        (
            b'{"m": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y", "content": "z"}]}',
            "'content'",
        ),
        (b'{"\\u0061": "x", "a": "y"}', "'a'"),
        (b'{"a": {"b": {"c": {"d": [1.5]}, "c": {}}}}', "'c'"),
        (b'{"a": true, "a": 1}', "'a'"),
        (b'{"a": NaN, "a": 1}', "'a'"),
        (b'{"a": 12345678901234567890123, "a": 1}', "'a'"),
        (b'{"a": {"n": 1, "n": 2}, "a": 1}', "'n'"),
    ],
)
def test_a_key_that_stands_twice_in_an_object_refuses_the_record(line, wrong):
    for found in (parse_line(line), *json_values.stream_values([b"[" + line + b"]"], "x", array=True)):
        assert isinstance(found, Refusal)
        assert found.reason == "repeated_key"
        assert f"the key {wrong} stands twice" in found.detail


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=9,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(max_size=4), JSON, max_size=4), st.booleans(), st.booleans())
def test_no_whole_record_is_taken_for_one_with_a_repeated_key(value, ascii, wide):
    line = json.dumps(value, ensure_ascii=ascii, indent=1 if wide else None).encode(errors="surrogatepass")
    assert parse_line(line) == value


def test_a_key_that_says_the_same_twice_is_no_loss():
    assert parse_line(b'{"a": [1, {"b": "x"}], "c": 2, "a": [1, {"b": "x"}]}') == {"a": [1, {"b": "x"}], "c": 2}
