"""Faults planted for real on this machine, and found by the probe that would run on a node."""

from __future__ import annotations

import errno
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import raysft
from raysft.doctor import node_probe
from raysft.doctor.node_probe import broken_imports, disks, try_storage, versions


def test_versions_are_told_without_importing() -> None:
    found = versions()
    assert found["raysft"] == raysft.__version__
    assert found["python"] == sys.version.split()[0]
    assert str(found["ray"]).startswith("2.60")
    assert all(found.values())


def test_a_package_that_is_not_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_probe, "VERSIONS", ("no-such-distribution",))
    assert versions()["no-such-distribution"] is None


def test_a_torchvision_made_for_another_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it fails in the field: its operators are not registered."""
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    (tmp_path / "torchao.py").write_text("import os\nos._exit(7)\n")
    (tmp_path / "xformers.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert broken_imports(("torchvision", "torchao", "xformers", "no_such_module")) == {
        "torchvision": "RuntimeError: operator torchvision::nms does not exist",
        "torchao": "ended with 7",
    }


def test_a_module_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torchao.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(node_probe, "IMPORT_TIMEOUT_S", 1)
    assert broken_imports(("torchao",)) == {"torchao": "not imported within 1 s"}


def test_a_storage_that_is_well(tmp_path: Path) -> None:
    (tmp_path / "marker").write_text("")
    found = try_storage(str(tmp_path), "marker", 1 << 20)
    assert (found.error, found.sees_marker) == ("", True)
    assert found.write_mb_s > 0
    assert found.read_mb_s > 0
    assert [path.name for path in tmp_path.iterdir()] == ["marker"], "nothing is left"
    assert try_storage(str(tmp_path / "own"), "marker", 1 << 20).sees_marker is False
    assert try_storage(str(tmp_path)).sees_marker is None


def test_a_storage_that_cannot_be_written(tmp_path: Path) -> None:
    """/proc takes no directories, whoever asks; a file is no directory."""
    assert try_storage("/proc/raysft").error
    (tmp_path / "file").write_text("")
    assert "Not a directory" in try_storage(str(tmp_path / "file" / "runs")).error


QUOTA = """
import sys
from raysft.doctor.node_probe import try_storage
print(try_storage(sys.argv[1], None, 4 << 20).error)
"""


def test_a_quota_that_is_used_up(tmp_path: Path) -> None:
    """The kernel's own: no file of this process may be larger than 1 MiB."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    done = subprocess.run(
        [sys.executable, "-c", QUOTA, str(tmp_path)], capture_output=True, text=True, preexec_fn=limit, check=True
    )
    assert f"[Errno {errno.EFBIG}]" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_storage_that_reads_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_probe.storage, "read_bytes", lambda place: b"torn")
    assert try_storage(str(tmp_path), None, 1 << 16).error == "what was read is not what was written"


def test_disks_that_are_there() -> None:
    (found,) = disks(("/tmp", "/no/such/place"))
    assert found.path == "/tmp"
    assert 0 < found.free_bytes <= found.total_bytes
