"""What a node finds out about itself, in a task on it. Decides nothing; what fails becomes a text."""

from __future__ import annotations

import importlib.util
import os
import platform
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib import metadata
from typing import Any

from raysft import __version__, storage
from raysft.doctor.facts import OPTIONAL, VERSIONS, Disk, StorageTrial
from raysft.doctor.gpu_probe import gpu_health
from raysft.errors import StorageError

IMPORT_TIMEOUT_S = 120
TRIAL_BYTES = 8 << 20
MARKER = "doctor-marker"

Clock = Callable[[], float]


def examine_node(question: dict[str, Any], clock: Clock = time.time) -> dict[str, Any]:
    """Fields of facts.NodeFacts but node, address and the clock's offset, as JSON values; `now` is its clock.

    question: {"storage": location or None, "marker": name of a file that the driver wrote there or None}.
    """
    trial = try_storage(question["storage"], question["marker"]) if question["storage"] else None
    return {
        "now": clock(),
        "versions": versions(),
        "broken_imports": broken_imports(OPTIONAL),
        "storage": None if trial is None else asdict(trial),
        "disks": [asdict(disk) for disk in disks(("/tmp", "/dev/shm"))],
        "gpus": gpu_health(),
        "auth_mode": os.environ.get("RAY_AUTH_MODE", ""),
    }


def versions() -> dict[str, str | None]:
    """{distribution: its version; None: not installed}. Nothing is imported."""
    found: dict[str, str | None] = {"python": platform.python_version(), "raysft": __version__}
    for name in VERSIONS:
        if name not in found:
            try:
                found[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                found[name] = None
    return found


def broken_imports(names: Sequence[str]) -> dict[str, str]:
    """{module that is there and cannot be imported: the error's last line}, each in a process of its own."""
    found = {}
    for name in names:
        if importlib.util.find_spec(name) is None:
            continue
        try:
            done = subprocess.run(
                [sys.executable, "-c", f"import {name}"],
                capture_output=True,
                text=True,
                timeout=IMPORT_TIMEOUT_S,
                check=False,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        except subprocess.TimeoutExpired:
            found[name] = f"not imported within {IMPORT_TIMEOUT_S} s"
            continue
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            found[name] = lines[-1][:300] if lines else f"ended with {done.returncode}"
    return found


def disks(paths: Sequence[str]) -> list[Disk]:
    """Those of the paths that are there."""
    found = []
    for path in paths:
        try:
            usage = shutil.disk_usage(path)
        except OSError:
            continue
        found.append(Disk(path, usage.free, usage.total))
    return found


def try_storage(location: str, marker: str | None = None, num_bytes: int = TRIAL_BYTES) -> StorageTrial:
    """Write a file there as runs do, read it again, delete it. marker: a file that another node wrote before."""
    place = storage.join(location, f"doctor-{secrets.token_hex(6)}")
    data = secrets.token_bytes(1 << 16) * (num_bytes >> 16)
    try:
        began = time.perf_counter()
        storage.write_bytes(place, data)
        written = time.perf_counter()
        is_same = storage.read_bytes(place) == data
        read = time.perf_counter()
        sees = None if marker is None else marker in storage.list_names(location)
        storage.remove_tree(place)
    except (OSError, StorageError) as error:
        text = error.got if isinstance(error, StorageError) else f"{type(error).__name__}: {error}"
        return StorageTrial(location, error=" ".join(text.split())[:300] or type(error).__name__)
    if not is_same:
        return StorageTrial(location, error="what was read is not what was written")
    mb = len(data) / 1e6
    return StorageTrial(location, "", mb / (written - began), mb / (read - written), sees)
