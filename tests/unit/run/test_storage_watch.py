"""A storage that is full or away is told at once, again every half minute, and when it is back; nothing is left."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
from run_dirs import make_run

from raysft.errors import StorageError
from raysft.run import storage_watch
from raysft.run.storage_watch import StorageWatch, free_bytes


@pytest.fixture
def run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Path:
    caplog.set_level(logging.WARNING)
    made = make_run(tmp_path, "a", seed=1)
    caplog.clear()
    return made


def played(run: Path, caplog: pytest.LogCaptureFixture, watch: StorageWatch, *seconds: float) -> list[str]:
    caplog.clear()
    for now_s in seconds:
        watch.look(now_s)
    return list(caplog.messages)


def test_room_is_no_word(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert played(run, caplog, StorageWatch(str(run)), 0, 10, 100) == []
    assert list((run / "driver").iterdir()) == []
    assert free_bytes(str(run)) == pytest.approx(shutil.disk_usage(run).free, rel=0.1)


def test_a_storage_that_takes_nothing(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    watch = StorageWatch(str(run))
    (run / "driver").write_text("in the way of every write")
    first = played(run, caplog, watch, 100)
    assert len(first) == 1
    for words in (
        "storage takes no checkpoint (since 0 s)",
        f"nothing can be written to {run} (",
        "up to 10 min",
        "make room",
    ):
        assert words in first[0]
    assert played(run, caplog, watch, 101, 110, 125) == []
    assert "(since 31 s)" in played(run, caplog, watch, 131)[0]
    (run / "driver").unlink()
    assert played(run, caplog, watch, 140, 150, 160) == ["storage has room again after 40 s; training goes on"]


def test_a_disk_with_less_room_than_a_checkpoint(
    run: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = max(run.glob("checkpoints/*/*"))
    size = sum(file.stat().st_size for file in newest.glob("*.safetensors"))
    free = [size]
    monkeypatch.setattr(storage_watch, "free_bytes", lambda location: free[0])
    watch = StorageWatch(str(run))
    assert played(run, caplog, watch, 0) == []
    free[0] = size - 1
    assert "MiB free, the next checkpoint takes" in played(run, caplog, watch, 10)[0]
    under_way = newest.with_name("step-00000010")
    under_way.mkdir()
    (under_way / ".rank-00000.safetensors.x").write_bytes(b"x")
    assert played(run, caplog, watch, 20) == ["storage has room again after 10 s; training goes on"]


def test_a_first_checkpoint_that_has_no_room_is_refused(run: Path, tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(StorageError, match="does not fit") as caught:
        storage_watch.check_disk(str(tmp_path), 2 * free)
    assert "GiB free" in caught.value.got
    storage_watch.check_disk(str(tmp_path), free // 2)
    storage_watch.check_disk(str(run), 2 * free)  # it has commits: StorageWatch tells of the next
    storage_watch.check_disk("memory://nowhere", 2 * free)
