"""The disk fills up while a store is written: a message, no half-written store, and the next run goes on."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from raysft import storage
from raysft.data.prepare.encode import EncodeStage
from raysft.data.prepare.write_shards import write_shard
from raysft.data.read.sources import expand, plan_reads
from raysft.data.store.manifest import read_manifest, write_manifest
from raysft.data.store.parts import TokenStore
from raysft.data.store.shards import read_summaries
from raysft.data.store.windows import write_window
from raysft.data.text.backend import BackendJson
from raysft.data.text.tokenizer import load_tokenizer, template_for, train_tokenizer
from raysft.errors import StorageError
from raysft.lines import LineFile
from raysft.recipe.sections.data import DataSection

PROGRAM = """
import resource, signal, sys
sys.path.insert(0, sys.argv[1])
from test_disk_full import make_lines, make_part, make_shard
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a full disk, for this process: writing past the limit is an OSError
from raysft.errors import StorageError
make = {"shard": make_shard, "part": make_part, "lines": make_lines}[sys.argv[3]]
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]), resource.RLIM_INFINITY))
try:
    make(sys.argv[2])
except StorageError as error:
    sys.exit(f"StorageError: {error}")
"""


def make_shard(folder: str) -> None:
    tokenizer = load_tokenizer(f"{folder}/tokenizer")
    section = DataSection(train=(f"{folder}/a.jsonl",))
    stage = EncodeStage(BackendJson.of(tokenizer), template_for("chatml", tokenizer), section, 0.0, 0)
    (task,) = plan_reads(expand([f"{folder}/a.jsonl"]))
    write_shard(f"{folder}/work", 0, task, stage)


def make_part(folder: str) -> None:
    rows = np.arange(500)
    part = write_window(f"{folder}/store", 0, [f"{folder}/work/shard-00000.arrow"], (np.zeros_like(rows), rows), 128)
    write_manifest(f"{folder}/store", {"parts": [part], "max_tokens": 128})


def make_lines(folder: str) -> None:
    """Records of steps while the disk is full, and when there is room again."""
    lines = LineFile(f"{folder}/metrics.jsonl")
    for step in range(50):
        lines.append({"step": step, "text": "x" * 70})
    limit, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.raises(StorageError, match="cannot write"):
        lines.flush()
    assert os.path.getsize(f"{folder}/metrics.jsonl") <= limit
    written = [line["step"] for line in storage.read_json_lines(f"{folder}/metrics.jsonl")]
    assert written == list(range(len(written)))
    assert 5 < len(written) < 20
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    lines.append({"step": 50})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    records = [{"instruction": f"question {i}", "output": f"answer {i} " * 5} for i in range(500)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    train_tokenizer(
        [str(tmp_path / "a.jsonl")], columns={}, vocab_size=400, template="chatml", out=str(tmp_path / "tokenizer")
    )
    return tmp_path


def test_lines_wait_for_room_and_none_is_torn(tmp_path: Path) -> None:
    done = limited(tmp_path, "lines", 1024)
    assert done.returncode == 0, done.stderr
    lines = list(storage.read_json_lines(str(tmp_path / "metrics.jsonl")))
    assert [line["step"] for line in lines] == list(range(51))


def limited(folder: Path, what: str, max_bytes: int) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", PROGRAM, str(Path(__file__).parent), str(folder), what, str(max_bytes)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_a_full_disk_leaves_no_shard_and_no_store(folder: Path) -> None:
    failed = limited(folder, "shard", 20_000)
    assert failed.returncode == 1
    assert "StorageError: cannot write" in failed.stderr
    assert "space left" in failed.stderr
    assert read_summaries(str(folder / "work")) == {}
    assert list((folder / "work").iterdir()) == [], "no temporary file is left either"
    make_shard(str(folder))
    assert list(read_summaries(str(folder / "work"))) == [0]

    failed = limited(folder, "part", 5_000)
    assert failed.returncode == 1
    assert "StorageError: cannot write" in failed.stderr
    assert read_manifest(str(folder / "store")) is None
    with pytest.raises(StorageError, match="no token store"):
        TokenStore.open(str(folder / "store"))
    make_part(str(folder))
    store = TokenStore.open(str(folder / "store"))
    rows = store.read_rows(range(store.num_rows))
    assert sum(len(row.segment_fields["sample_id"]) for row in rows) == 500
