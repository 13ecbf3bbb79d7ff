"""Leave out of Ray's wheel what the kit has no use for: Java's classes, the dashboard's pages, RLlib, ray.llm,
and the symbols of its programs, which only a debugger reads (5 MiB, where `strip` of binutils is there)."""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

UNUSED = ("ray/jars/", "ray/dashboard/client/", "ray/rllib/", "ray/llm/")
ELF = b"\x7fELF"


def strip(wheel: Path) -> None:
    """Write the wheel anew, without those files, and with its RECORD as it is then."""
    small = wheel.with_suffix(".part")
    changed: dict[str, bytes] = {}
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(small, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as new:
        for entry in old.infolist():
            data = old.read(entry)
            if entry.filename.startswith(UNUSED):
                continue
            if data.startswith(ELF):
                data = changed[entry.filename] = without_symbols(data)
            if entry.filename.endswith(".dist-info/RECORD"):  # a wheel's last file
                lines = data.decode().splitlines()
                kept = [recorded(line, changed) for line in lines if not line.startswith(UNUSED)]
                data = "".join(f"{line}\n" for line in kept).encode()
            new.writestr(entry, data, compresslevel=9)
    small.replace(wheel)


def without_symbols(program: bytes) -> bytes:
    """What the loader and the linker need of a program or a library."""
    if shutil.which("strip") is None:
        return program
    with tempfile.NamedTemporaryFile() as file:
        file.write(program)
        file.flush()
        subprocess.run(["strip", "--strip-unneeded", file.name], check=True)
        return Path(file.name).read_bytes()


def recorded(line: str, changed: dict[str, bytes]) -> str:
    """A line of RECORD: path, sha256, bytes."""
    path = line.rsplit(",", 2)[0]
    if path not in changed:
        return line
    digest = base64.urlsafe_b64encode(hashlib.sha256(changed[path]).digest()).rstrip(b"=").decode()
    return f"{path},sha256={digest},{len(changed[path])}"


if __name__ == "__main__":
    for found in Path(sys.argv[1]).glob("ray-*.whl"):
        strip(found)
