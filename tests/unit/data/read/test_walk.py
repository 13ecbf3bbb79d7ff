"""What is looked into below a folder, and what is passed over."""

from __future__ import annotations

import os

import fsspec
import pytest
from file_lists import make, names

from raysft.data.read.listing import list_files
from raysft.data.read.sources import expand
from raysft.data.store.manifest import write_manifest
from raysft.errors import DataError
from raysft.recipe.sections.data import SourceSection


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
