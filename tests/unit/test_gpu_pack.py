"""Ray's wheel as the GPU kit packs it, and what the kit says of a machine that lacks a package."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

KIT = Path(__file__).parents[1] / "gpu"


def sha256(data: bytes) -> str:
    """As RECORD has it."""
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")


@pytest.mark.skipif(shutil.which("strip") is None, reason="binutils are not here")
def test_a_packed_wheel_is_smaller_and_its_record_is_true(tmp_path: Path) -> None:
    program = Path(sys.executable).resolve().read_bytes()
    wheel = tmp_path / "ray-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as made:
        info = zipfile.ZipInfo("ray/raylet")
        info.external_attr = 0o100755 << 16
        made.writestr(info, program)
        made.writestr("ray/jars/a.jar", b"java")
        made.writestr("ray/a.py", b"a = 1\n")
        files = {"ray/raylet": program, "ray/jars/a.jar": b"java", "ray/a.py": b"a = 1\n"}
        lines = [f"{name},sha256={sha256(data)},{len(data)}" for name, data in files.items()]
        made.writestr("ray-1.dist-info/RECORD", "\n".join([*lines, "ray-1.dist-info/RECORD,,\n"]))
    subprocess.run([sys.executable, str(KIT / "strip_ray.py"), str(tmp_path)], check=True)
    with zipfile.ZipFile(wheel) as found:
        assert found.namelist() == ["ray/raylet", "ray/a.py", "ray-1.dist-info/RECORD"]
        assert found.getinfo("ray/raylet").external_attr >> 16 == 0o100755
        assert len(found.read("ray/raylet")) <= len(program)
        *recorded, last = found.read("ray-1.dist-info/RECORD").decode().splitlines()
        assert last == "ray-1.dist-info/RECORD,,"
        assert [line.split(",")[0] for line in recorded] == ["ray/raylet", "ray/a.py"]
        for line in recorded:
            name, digest, size = line.split(",")
            data = found.read(name)
            assert (digest, int(size)) == (f"sha256={sha256(data)}", len(data))


def test_the_kit_names_what_is_missing_before_it_starts(tmp_path: Path) -> None:
    command = [sys.executable, "-S", str(KIT / "run.py"), "--out", str(tmp_path / "out")]  # -S: no site-packages
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "this Python lacks transformers, pyarrow, pandas, peft," in done.stdout
    assert not (tmp_path / "out").exists()
