"""Datasets that Hugging Face `datasets` saved to disk."""

from __future__ import annotations

import io
import json
import shutil

import pyarrow as pa
import pytest

from raysft.data.read.sources import expand, read_all
from raysft.errors import DataError

RECORDS = [
    {"n": i, "text": 'a "quoted", 你好🙂' * (i % 7) + "\n" * (i % 3), "tags": ["x"] * (i % 4)} for i in range(40)
]


def arrow(rows, batch_rows=7, file=False):
    table = pa.Table.from_pylist(rows)
    sink = io.BytesIO()
    with (pa.ipc.new_file if file else pa.ipc.new_stream)(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=batch_rows)
    return sink.getvalue()


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
