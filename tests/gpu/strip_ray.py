"""Leave out of Ray's wheel what the kit has no use for: Java's classes, the dashboard's pages, RLlib, ray.llm."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

UNUSED = ("ray/jars/", "ray/dashboard/client/", "ray/rllib/", "ray/llm/")


def strip(wheel: Path) -> None:
    """Write the wheel anew, without the files and their lines in RECORD."""
    small = wheel.with_suffix(".part")
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(small, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            data = old.read(entry)
            if entry.filename.startswith(UNUSED):
                continue
            if entry.filename.endswith(".dist-info/RECORD"):
                lines = data.decode().splitlines(keepends=True)
                data = "".join(line for line in lines if not line.startswith(UNUSED)).encode()
            new.writestr(entry, data)
    small.replace(wheel)


if __name__ == "__main__":
    for found in Path(sys.argv[1]).glob("ray-*.whl"):
        strip(found)
