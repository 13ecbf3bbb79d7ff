from __future__ import annotations

import gzip
import json

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysft.data.read.sources import default_name, describe_line, describe_sample, expand, plan_reads, read, read_all
from raysft.data.records import Refusal
from raysft.errors import DataError, StorageError
from raysft.recipe.sections.data import SourceSection

LINES = [{"n": i, "text": "你好🙂" * (i % 7) + "\n" * (i % 3)} for i in range(50)]


@pytest.fixture
def jsonl(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"\n\r\n".join(json.dumps(r, ensure_ascii=False).encode() for r in LINES))
    return path


def values(files, range_bytes=1 << 20):
    return [(raw.sample_id, raw.value) for task in plan_reads(files, range_bytes) for raw in read(task)]


def test_ranges_of_any_size_give_the_same_records(jsonl):
    files = expand([str(jsonl)])
    whole = values(files)
    assert [value for _, value in whole] == LINES, "byte-order mark, blank lines and CRLF are passed over"
    for range_bytes in (1, 2, 7, 64, 1000):
        assert values(files, range_bytes) == whole


def test_sample_ids_are_byte_offsets(jsonl):
    files = expand([str(jsonl)])
    raw = jsonl.read_bytes()
    for sample_id, value in values(files)[1:]:
        offset = int(describe_sample(sample_id, files).rpartition(":")[2])
        assert json.loads(raw[offset:].split(b"\n")[0]) == value
    assert describe_line(values(files)[3][0], files) == f"{jsonl}:7"


def test_ids_are_unique_over_files(tmp_path):
    for name in ("b.jsonl", "a.json", "c.parquet"):
        (tmp_path / name).write_text('{"x": 1}\n{"x": 2}\n')
    pq.write_table(pa.table({"x": [1, 2]}), tmp_path / "c.parquet")
    found = values(expand([str(tmp_path)]))
    assert len({sample_id for sample_id, _ in found}) == 6
    assert [sample_id >> 40 for sample_id, _ in found] == [0, 0, 1, 1, 2, 2]
    assert all(0 <= sample_id < 2**63 for sample_id, _ in found)


def test_json_array_lines_object_and_gzip(tmp_path):
    (tmp_path / "array.json").write_text(json.dumps(LINES))
    (tmp_path / "lines.json").write_text("\n".join(map(json.dumps, LINES)))
    (tmp_path / "pretty.json").write_text(json.dumps(LINES[0], indent=1))
    (tmp_path / "z.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, LINES)).encode()))
    (tmp_path / "z.json.gz").write_bytes(gzip.compress(json.dumps(LINES).encode()))
    for name, expected in [
        ("array.json", LINES),
        ("lines.json", LINES),
        ("pretty.json", LINES[:1]),
        ("z.jsonl.gz", LINES),
        ("z.json.gz", LINES),
    ]:
        files = expand([str(tmp_path / name)])
        assert [raw.value for raw in read_all(files)] == expected, name
    files = expand([str(tmp_path / "z.jsonl.gz")])
    assert describe_line(values(files)[3][0], files).endswith("z.jsonl.gz:4")


def test_parquet_by_row_group(tmp_path):
    pq.write_table(pa.Table.from_pylist(LINES), tmp_path / "a.parquet", row_group_size=7)
    files = expand([str(tmp_path / "a.parquet")])
    assert len(plan_reads(files)) == 8
    found = values(files)
    assert [value for _, value in found] == LINES
    assert [sample_id for sample_id, _ in found] == list(range(50))
    assert describe_line(found[9][0], files).endswith("a.parquet#9")


def test_malformed_lines_are_values(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n\n{"a": \n[1]\n"x"\n\xff\xfe\n' + b"[" * 100_000 + b"\n" + b'{"b": 2}')
    files = expand([str(path)])
    found = values(files)
    reasons = [value.reason if isinstance(value, Refusal) else None for _, value in found]
    assert reasons == [
        None,
        "malformed_json",
        "not_an_object",
        "not_an_object",
        "invalid_utf8",
        "malformed_json",
        None,
    ]
    assert describe_line(found[1][0], files) == f"{path}:3"
    assert '{"a":' in found[1][1].detail


def test_a_file_that_is_no_parquet(tmp_path):
    (tmp_path / "a.parquet").write_text("hello")
    with pytest.raises(DataError, match="not a Parquet file"):
        plan_reads(expand([str(tmp_path / "a.parquet")]))


def test_directories_globs_and_order(tmp_path):
    for name in ("x/b.jsonl", "x/a.jsonl", "x/y/c.jsonl", "x/.hidden.jsonl", "x/README.md", "x/z/only.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}\n")

    def names(*patterns: str) -> list[str]:
        files = expand([str(tmp_path / pattern) for pattern in patterns])
        assert [file.index for file in files] == list(range(len(files)))
        return [file.location.removeprefix(f"{tmp_path}/") for file in files]

    assert names("x") == ["x/a.jsonl", "x/b.jsonl", "x/y/c.jsonl"]
    assert names("x/*.jsonl") == ["x/a.jsonl", "x/b.jsonl"]
    assert names("x/[a].jsonl") == ["x/a.jsonl"]
    assert names("x/**/*.jsonl") == ["x/a.jsonl", "x/b.jsonl", "x/y/c.jsonl"]
    assert names("x/b.jsonl", "x/*.jsonl") == ["x/b.jsonl", "x/a.jsonl"], "each file once, sources in order"
    assert names("x/z") == ["x/z/only.txt"], "text is passed over only beside other data"
    assert names("x/*.md") == ["x/README.md"]


def test_relative_paths_become_absolute(tmp_path, monkeypatch):
    (tmp_path / "a.jsonl").write_text("{}\n")
    monkeypatch.chdir(tmp_path)
    assert expand(["a.jsonl"])[0].location == str(tmp_path / "a.jsonl")


def test_uris(tmp_path):
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/a.jsonl", b'{"a": 1}\n{"a": 2}\n')
    for location in ("memory://bucket/a.jsonl", "memory://bucket", "memory://bucket/*.jsonl"):
        assert [raw.value for raw in read_all(expand([location]))] == [{"a": 1}, {"a": 2}], location
    (tmp_path / "a.jsonl").write_text('{"a": 3}\n')
    assert [raw.value for raw in read_all(expand([f"file://{tmp_path}/a.jsonl"]))] == [{"a": 3}]


def test_hugging_face_hub_offline_says_what_to_do():
    for path in ("squad/train.jsonl", "squad/*.jsonl"):
        with pytest.raises(
            StorageError, match=r"cannot read hf://(.|\n)*1 attempts(.|\n)*unset HF_HUB_OFFLINE, or fetch"
        ):
            expand([f"hf://datasets/rajpurkar/{path}"])


def test_missing_empty_and_unsupported(tmp_path):
    (tmp_path / "train.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match=r"did you mean 'train\.jsonl'"):
        expand([str(tmp_path / "trian.jsonl")])
    with pytest.raises(DataError, match="no input file"):
        expand([str(tmp_path / "*.parquet")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no input file"):
        expand([str(tmp_path / "empty")])
    for name in ("a.xlsx", "a.parquet.gz", "a.gz", "jsonl"):
        (tmp_path / name).write_text("a\n")
        with pytest.raises(DataError, match=f"cannot read .*{name}"):
            expand([str(tmp_path / name)])
    (tmp_path / "zero.jsonl").write_text("")
    with pytest.raises(DataError, match=r"zero\.jsonl is empty"):
        expand([str(tmp_path / "zero.jsonl")])


def test_each_source_has_its_name_format_and_columns(tmp_path, caplog):
    for name in ("a/qa.jsonl", "b/qa.jsonl.gz", "c/part-1.json"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("{}\n")
    own = SourceSection(path=(f"{tmp_path}/c", f"{tmp_path}/a"), name="own", format="alpaca", columns={})
    sources = [f"{tmp_path}/a/qa.jsonl", f"{tmp_path}/b/*.gz", f"{tmp_path}/b/qa.jsonl.gz", own, f"{tmp_path}/a"]
    files = expand(sources, format="text", columns={"text": "body"})
    assert [(f.index, f.source, f.location.removeprefix(f"{tmp_path}/"), f.format, f.columns) for f in files] == [
        (0, "qa", "a/qa.jsonl", "text", {"text": "body"}),
        (1, "b", "b/qa.jsonl.gz", "text", {"text": "body"}),
        (2, "own", "a/qa.jsonl", "alpaca", {}),
        (3, "own", "c/part-1.json", "alpaca", {}),
    ], "a named source reads a file again, another does not"
    assert "2 input files are listed more than once" in caplog.text
    twice = [SourceSection(path=(f"{tmp_path}/{folder}",), name="own") for folder in "ab"]
    with pytest.raises(DataError, match="2 sources have the name 'own'"):
        expand(twice)
    same = expand(
        [f"{tmp_path}/a/qa.jsonl", SourceSection(path=(f"{tmp_path}/c",), name="qa-2"), f"{tmp_path}/b/qa*"]
    )
    assert [file.source for file in same] == ["qa", "qa-2", "b"]
    same = expand([f"{tmp_path}/a/qa.jsonl", SourceSection(path=(f"{tmp_path}/c",), name="qa"), f"{tmp_path}/b"])
    assert [file.source for file in same] == ["qa-2", "qa", "b"], "a default name gives way"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("data/gsm8k_train.jsonl.gz", "gsm8k_train"),
        ("s3://bucket/v1.2/x.parquet?region=eu-west-1&scheme=http", "x"),
        ("s3://bucket/*.jsonl", "bucket"),
        ("/data/sets/**/part-?.json", "sets"),
        ("/data/sets/", "sets"),
    ],
)
def test_default_names(path, name):
    assert default_name(path) == name
