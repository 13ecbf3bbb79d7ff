"""Which files a location of the recipe stands for: each once, none of those that are no data, and all said."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest
from file_lists import RECORD, make, names

from raysft.data.read import walk
from raysft.data.read.listing import list_files
from raysft.data.read.remote import open_bytes
from raysft.data.read.sources import expand
from raysft.errors import DataError, StorageError


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
