"""Which files a location of the recipe stands for: each once, none of those that are no data, and all said."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysft.data.read import listing, remote, walk
from raysft.data.read.listing import list_files
from raysft.data.read.remote import open_bytes
from raysft.data.read.sources import expand
from raysft.data.store.manifest import write_manifest
from raysft.errors import DataError, StorageError
from raysft.recipe.sections.data import SourceSection

RECORD = '{"instruction": "q", "output": "a"}\n'


def make(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(RECORD)
    return folder


def names(location: str | Path, purpose: str | None = None, base: Path | None = None) -> list[str]:
    folder = str(base or location).rstrip("/").removeprefix("memory://")
    found = [one.location.removeprefix("memory:///") for one in list_files(str(location), purpose)]
    return [one.removeprefix(folder).lstrip("/") for one in found]


def test_hidden_files_and_folders_are_no_data(tmp_path, caplog):
    folder = make(
        *(tmp_path, "a.jsonl", ".b.jsonl", ".ipynb_checkpoints/a-checkpoint.jsonl", ".git/x.json", "_SUCCESS.json"),
        *("_temporary/0/a.jsonl", "sub/.cache/huggingface/a.jsonl", "sub/b.jsonl", "sub/_delta_log/0.json"),
        "__MACOSX/a.jsonl",
    )
    assert names(folder) == ["a.jsonl", "sub/b.jsonl"]
    assert "not read: " in caplog.text
    assert all(word in caplog.text for word in (".b.jsonl (hidden)", ".ipynb_checkpoints (hidden)", "more"))
    memory = fsspec.filesystem("memory")
    for path in folder.rglob("*.json*"):
        memory.pipe(f"/hidden/{path.relative_to(folder)}", path.read_bytes())
    assert names("memory://hidden") == ["a.jsonl", "sub/b.jsonl"]
    assert list_files(str(folder / ".b.jsonl")), "one that is named is read"
    assert names(folder / ".git") == ["x.json"]


def test_what_lies_behind_links_is_read_once(tmp_path, caplog):
    folder = make(tmp_path / "data", "v1/a.jsonl", "v1/b.jsonl", "z.jsonl")
    make(tmp_path / "elsewhere", "c.jsonl")
    for name, target in [
        ("latest", "v1"),
        ("loop", "."),
        ("v1/up", ".."),
        ("above", tmp_path),
        ("root", "/"),
        ("extra", tmp_path / "elsewhere"),
        ("again", tmp_path / "elsewhere"),
        ("copy.jsonl", "v1/a.jsonl"),
        ("self", "self"),
    ]:
        (folder / name).symlink_to(target)
    (tmp_path / "elsewhere" / "back").symlink_to(folder)
    os.link(folder / "z.jsonl", folder / "hard.jsonl")
    assert names(folder) == ["again/c.jsonl", "hard.jsonl", "v1/a.jsonl", "v1/b.jsonl"]
    assert "(a link to" in caplog.text
    assert names(folder / "latest") == ["a.jsonl", "b.jsonl"], "a link that is named is followed"
    listed = expand([str(folder), str(folder / "latest" / "b.jsonl"), str(folder / "v1")])
    assert len(listed) == 4, "by whatever names"
    twice = expand([str(folder), SourceSection(path=(str(folder / "latest"),), name="again")])
    assert len(twice) == 6, "a source with a name reads them again"


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("**", ["a.jsonl", "v1/b.jsonl"]),
        ("**/*.jsonl", ["a.jsonl", "v1/b.jsonl"]),
        ("latest/*.jsonl", ["latest/b.jsonl"]),
        ("l*/b.jsonl", ["latest/b.jsonl"]),
        ("*/*.jsonl", ["a.jsonl", "v1/b.jsonl"]),
        ("loop/loop/loop/*.jsonl", ["a.jsonl"]),
        ("v*", ["v1/b.jsonl"]),
        ("{a,v1/b}.jsonl", ["a.jsonl", "v1/b.jsonl"]),
        ("{a,v1/*}.jsonl", ["a.jsonl", "v1/b.jsonl"]),
        ("{a,nothing*}.jsonl", ["a.jsonl"]),
    ],
)
def test_patterns_and_links(tmp_path, pattern, found):
    folder = make(tmp_path, "v1/b.jsonl", "a.jsonl")
    (folder / "latest").symlink_to("v1")
    (folder / "loop").symlink_to(".")
    listed = list_files(f"{folder}/{pattern}")
    assert {os.path.realpath(one.location) for one in listed} == {os.path.realpath(folder / name) for name in found}
    assert len(listed) == len(found)


def test_folders_that_a_pattern_matches_beside_files_are_named(tmp_path, caplog):
    folder = make(tmp_path, "a.jsonl", "more/b.jsonl")
    assert names(folder / "*", base=folder) == ["a.jsonl"]
    assert "folders are not read: more; `**` reads" in caplog.text
    assert names(folder / "m*", base=folder) == ["more/b.jsonl"], "as if it were named"


def test_a_name_in_braces_has_to_be_there(tmp_path):
    make(tmp_path, "shard-1.jsonl", "{x}.jsonl", "data[1].jsonl")
    with pytest.raises(DataError, match=r"no file .*shard-\{1,2\}\.jsonl"):
        list_files(f"{tmp_path}/shard-{{1,2}}.jsonl")
    assert names(tmp_path / "{x}.jsonl") == [""], "a file of just that name"
    assert names(tmp_path / "data[1].jsonl") == [""]
    with pytest.raises(DataError, match="no input file"):
        list_files(f"{tmp_path}/nothing*.jsonl")


def test_endings_in_any_case(tmp_path):
    folder = make(tmp_path, "A.JSONL", "b.JsonL.GZ", "c.CSV", "d.Parquet", "e.JSON", "f.PARQUET.gz", "g.XLSX")
    files = expand([str(folder)])
    assert [(Path(file.location).name, file.kind) for file in files] == [
        ("A.JSONL", "jsonl"),
        ("b.JsonL.GZ", "jsonl"),
        ("c.CSV", "csv"),
        ("d.Parquet", "parquet"),
        ("e.JSON", "json"),
    ]


def test_an_empty_file_is_passed_over_unless_it_is_named(tmp_path, caplog):
    folder = make(tmp_path, "a.jsonl", "b.jsonl")
    (folder / "empty.jsonl").write_text("")
    assert names(folder) == names(folder / "*.jsonl", base=folder) == ["a.jsonl", "b.jsonl"]
    assert "empty.jsonl (empty)" in caplog.text
    for location in ("empty.jsonl", "{a,empty}.jsonl"):
        with pytest.raises(DataError, match=r"empty.*\.jsonl is empty"):
            list_files(f"{folder}/{location}")
    with pytest.raises(DataError, match=r"no input file(.|\n)*empty\.jsonl \(empty\)"):
        list_files(f"{folder}/e*.jsonl")


def test_links_to_nothing_and_things_that_are_no_files(tmp_path):
    folder = make(tmp_path, "a.jsonl")
    (folder / "lock").symlink_to("host:1234")
    os.mkfifo(folder / "pipe.jsonl")
    assert names(folder) == ["a.jsonl"], "a pipe would wait for ever"
    with pytest.raises(DataError, match=r"pipe\.jsonl is no regular file"):
        list_files(str(folder / "pipe.jsonl"))
    (folder / "b.jsonl").symlink_to("../blobs/0123")
    for location in (folder, folder / "*.jsonl", folder / "b.jsonl"):
        with pytest.raises(DataError, match=r"b\.jsonl is a link to nothing(.|\n)*blobs/0123(.|\n)*download"):
            list_files(str(location))


def test_what_may_not_be_read_says_so(tmp_path, monkeypatch):
    """Not "make or fetch that file again". (Tests may run as root, whom nobody refuses.)"""
    folder = make(tmp_path, "a.jsonl")

    def refuse(*_args, **_more):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(walk.os, "scandir", refuse)
    with pytest.raises(DataError, match=r"cannot read(.|\n)*Permission denied(.|\n)*give the right to read it"):
        list_files(str(folder))
    monkeypatch.undo()
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(DataError, match=r"a\.jsonl(.|\n)*Permission denied(.|\n)*give the right to read it"):
        open_bytes(str(folder / "a.jsonl"))


def test_the_storage_of_a_run_is_no_data(tmp_path, caplog):
    folder = make(
        *(tmp_path, "a.jsonl", "storage/tokens/hashes.json", "storage/datasets/r/version-0001.json"),
        *("storage/runs/r/run.json", "storage/runs/r/attempts/x.json", "storage/runs/r/metrics/m.jsonl"),
        "other/part-00000.parquet",
    )
    write_manifest(str(folder / "other"), {"parts": [], "max_tokens": 8})
    assert names(folder) == names(folder / "**", base=folder) == ["a.jsonl"]
    assert "other (a token store of raysft)" in caplog.text
    with pytest.raises(DataError, match=r"no input file(.|\n)*a token store of raysft"):
        list_files(str(folder / "other"))


def test_files_about_the_data_are_no_data(tmp_path):
    folder = make(tmp_path, "data/train.jsonl", "dataset_infos.json", "README.md", "LICENSE.txt", "logo.png")
    assert names(folder) == ["data/train.jsonl"]


SNAPSHOT = (
    "data/train-00000-of-00002.parquet",
    "data/train-00001-of-00002.parquet",
    "data/test-00000-of-00001.parquet",
)


def test_a_folder_with_named_splits_reads_train_and_offers_the_others(tmp_path, caplog):
    folder = make(tmp_path, *SNAPSHOT, "data/validation-00000-of-00001.parquet", "README.md")
    assert names(folder, "train") == list(SNAPSHOT[:2])
    assert "the split train is read; not read: test (1 file), validation (1 file); data.eval may" in caplog.text
    assert names(folder, "eval") == ["data/validation-00000-of-00001.parquet"]
    assert len(names(folder)) == 4, "where no split is asked for (contamination compares with all)"
    assert len(list_files(f"{folder}/data/test-*.parquet", "train")) == 1, "what is named is read"
    memory = fsspec.filesystem("memory")
    for name in SNAPSHOT:
        memory.pipe(f"/snapshot/{name}", b"x")
    assert names("memory://snapshot", "train") == list(SNAPSHOT[:2])
    assert names("memory://snapshot", "eval") == [SNAPSHOT[2]]


def test_a_snapshot_of_the_hub_is_a_folder_of_links(tmp_path):
    """Blobs have no endings; the names are those of the links."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0123" / "data"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for number, name in enumerate(SNAPSHOT):
        (blobs / f"{number}").write_text(RECORD)
        (snapshot / Path(name).name).symlink_to(f"../../../blobs/{number}")
    assert names(snapshot.parent, "train") == list(SNAPSHOT[:2])


def test_a_name_of_the_hub_is_told_how_to_be_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"hf://datasets/openai/gsm8k"):
        list_files("openai/gsm8k")
    make(tmp_path, "openai/gsm8k.jsonl")
    with pytest.raises(DataError, match=r"did you mean 'gsm8k\.jsonl'"):
        list_files("openai/gsm8k")


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("", "a location of data is empty"),
        ("foo://x/a.jsonl", "cannot open the storage location"),
        ("ftp://host/a.jsonl", "cannot open the storage location"),
        ("hf://datasets/x", "namespace/name"),
        ("http://", "files that end in"),
        ("https://[::1/a.jsonl", "Invalid|cannot read"),
    ],
)
def test_what_is_no_location_is_refused_at_once(location, message):
    with pytest.raises((DataError, StorageError), match=message):
        list_files(location)


def test_a_place_that_cannot_be_reached_is_given_up_soon(monkeypatch):
    tried = []

    class Unreachable:
        def get_file_info(self, _path):
            tried.append(1)
            raise OSError("[Errno -2] Name or service not known\n" + "very long " * 500)

    monkeypatch.setattr(remote, "RETRY", remote.RetryPolicy(first_wait_s=0.001, longest_wait_s=0.001))
    monkeypatch.setattr(listing, "filesystem", lambda location: (Unreachable(), "org/name"))
    with pytest.raises(StorageError, match=r"cannot read hf://datasets/org/name(.|\n)*3 attempts") as caught:
        list_files("hf://datasets/org/name")
    assert len(tried) == 3
    assert len(str(caught.value)) < 700


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
