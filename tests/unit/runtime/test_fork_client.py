"""The command by which Ray starts a worker that is made by fork()."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from raysft.runtime import fork_client


def test_the_code_on_disk_a_job_and_a_raylet_make_another_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    was = fork_client._address("json")
    assert fork_client._address("json") == was != fork_client._address("os")
    for name in ("RAY_JOB_ID", "RAY_RAYLET_PID"):  # Ray reads them at import
        with monkeypatch.context() as patch:
            patch.setenv(name, "another")
            assert fork_client._address("json") != was
    newest = max(Path(fork_client.__file__).parents[1].rglob("*.py"), key=lambda path: path.stat().st_mtime_ns)
    before = newest.stat()
    try:
        os.utime(newest, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
        assert fork_client._address("json") != was
    finally:
        os.utime(newest, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_node_without_the_file_starts_python(tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text("import sys; print(sys.argv[1:]); sys.exit(5)")
    command = fork_client.command().replace(fork_client.__file__, str(tmp_path / "nowhere.py"))
    done = subprocess.run(
        ["bash", "-c", f"exec {command} {script} a 'b c'"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (5, "['a', 'b c']\n")
