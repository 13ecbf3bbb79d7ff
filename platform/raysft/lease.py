"""Leases in storage: one holder at a time, whoever died. Knows nothing of what is protected.

    <location>/lease-0003.json    who holds it; created exclusively, the highest number counts
    <location>/lease-0003.beat    a counter that the holder raises every few seconds

Nobody compares clocks: a waiter takes over when, on its own clock, the counter has stood still for TTL_S, or at
once when the holder was a process of this machine that is gone. A holder that was only slow may then still write;
what is protected must be atomic and come out the same from both.
"""

from __future__ import annotations

import os
import platform
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raysft import storage
from raysft.errors import StorageError

TTL_S = 30.0
_NAME = re.compile(r"lease-(\d+)\.json")


@contextmanager
def lease(
    location: str, *, done: Callable[[], bool] = lambda: False, waiting: Callable[[str], None] = lambda holder: None
) -> Iterator[bool]:
    """Hold the lease inside the block (yields True), or yield False as soon as done() is true.

    Waits for another holder for as long as it shows signs of life; at the first of them `waiting` is told who that
    is, and may raise to wait no longer.
    """
    number = _acquire(location, done, waiting)
    if number is None:
        yield False
        return
    stop = threading.Event()
    beat = threading.Thread(target=_beat, args=(location, number, stop), daemon=True)
    beat.start()
    try:
        yield True
    finally:
        stop.set()
        beat.join(TTL_S)
        for old in range(number, 0, -1):  # also of those that died holding it
            for name in (_beat_name(old), _lease_name(old)):
                storage.remove_tree(storage.join(location, name))


def is_held(location: str) -> bool:
    """Does somebody hold the lease now, as far as can be told by looking once?

    A holder on this machine is known by its process; elsewhere by a sign of life that is younger than 4 x TTL_S, by
    the storage's clock and this one's.
    """
    number = _newest(location)
    holder = _holder(storage.join(location, _lease_name(number))) if number else None
    if holder is None or _is_gone(holder):
        return False
    if _is_here(holder):
        return True
    written = [storage.modified_at(storage.join(location, name(number))) for name in (_beat_name, _lease_name)]
    return time.time() - max(at or 0.0 for at in written) < 4 * TTL_S


def _acquire(location: str, done: Callable[[], bool], waiting: Callable[[str], None]) -> int | None:
    newest, seen, since, told = -1, "", time.monotonic(), False
    while not done():
        number = _newest(location)
        holder = _holder(storage.join(location, _lease_name(number))) if number else None
        if number == 0 or (holder is not None and _is_gone(holder)):
            if storage.create_exclusive(storage.join(location, _lease_name(number + 1)), _myself()):
                return number + 1
            continue
        count = str(_read(storage.join(location, _beat_name(number))))
        is_alive = holder is not None and _is_here(holder)
        if (number, count) != (newest, seen):
            is_alive = is_alive or number == newest
            newest, seen, since = number, count, time.monotonic()
        elif time.monotonic() - since > TTL_S:
            if storage.create_exclusive(storage.join(location, _lease_name(number + 1)), _myself()):
                return number + 1
            continue
        if is_alive and holder is not None and not told:
            waiting(f"process {holder['pid']} on {holder['host']}")
            told = True
        time.sleep(0.5)
    return None


def _newest(location: str) -> int:
    found = [_NAME.fullmatch(name) for name in storage.list_names(location)]
    return max((int(match[1]) for match in found if match), default=0)


def _read(location: str) -> Any:
    try:
        return storage.read_json(location)
    except (OSError, ValueError):
        return None  # released, or about to be written


def _holder(location: str) -> dict[str, Any] | None:
    """Who holds a lease; None while nobody can tell: the record is damaged, or of something else."""
    found = _read(location)
    return found if isinstance(found, dict) and {"host", "pid", "started"} <= found.keys() else None


def _beat(location: str, number: int, stop: threading.Event) -> None:
    count = 0
    while not stop.wait(TTL_S / 6):
        count += 1
        try:
            storage.write_json(storage.join(location, _beat_name(number)), count)
        except StorageError:
            continue  # the next beat may come through; if none does, others take over


def _myself() -> dict[str, Any]:
    return {"host": platform.node(), "boot": _boot(), "pid": os.getpid(), "started": _started(os.getpid())}


def _is_gone(holder: dict[str, Any]) -> bool:
    """Was it a process of this very machine that does not run any more?"""
    return _was_here(holder) and _started(holder["pid"]) != holder["started"]


def _is_here(holder: dict[str, Any]) -> bool:
    """Is it a running process of this very machine?"""
    return _was_here(holder) and _started(holder["pid"]) == holder["started"]


def _was_here(holder: dict[str, Any]) -> bool:
    return holder.get("host") == platform.node() and holder.get("boot") == _boot() and bool(_boot())


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Start time of a process in clock ticks since boot: pids are used again, pairs are not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def _lease_name(number: int) -> str:
    return f"lease-{number:04d}.json"


def _beat_name(number: int) -> str:
    return f"lease-{number:04d}.beat"
