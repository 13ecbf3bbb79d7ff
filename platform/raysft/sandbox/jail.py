"""Tests of one answer, run: two processes behind barriers, watched, killed, and gone with all they wrote.

Two, so that an answer cannot know what it is tested for, nor say that it passed: its code has a process of its own,
and only values of what the tests ask for come out of it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import raysft
from raysft.sandbox.barriers import Limits, readable_of
from raysft.sandbox.tests_side import ENDED, PASSED

TIME, FILES = "time", "files"
_POLL_S = 0.02
_MOST_TOLD = 1 << 16
ENVIRONMENT = {
    **{"LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0", "PATH": "/usr/bin:/bin"},
    **{"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
}
"""All that the processes are told, besides HOME, TMPDIR and LD_LIBRARY_PATH. The order of sets has one seed."""
_PROGRAM = "import sys; sys.path.insert(0, {home!r}); from raysft.sandbox.inside import main; sys.path.pop(0); main()"


@dataclass(frozen=True)
class Verdict:
    """What tests found."""

    kind: str
    """`passed`; `wrong`: an assertion failed; `raised`; `ended`: the answer ended its process or broke the line;
    `time`, `files`: it went over that limit; `untested`: the tests are no Python, their setup fails, or they used
    nothing of the answer."""
    why: str = ""

    @property
    def passed(self) -> bool:
        """Did all tests pass?"""
        return self.kind == PASSED


class NoStartError(Exception):
    """A process of the sandbox could not raise its barriers, or could not start: (barrier, problem)."""


def judge(code: str, tests: str, *, setup: str = "", limits: Limits = Limits()) -> Verdict:  # noqa: B008
    """Run tests on code. setup: trusted, runs in front of both. Takes limits.wall_s at most. Raises NoStartError."""
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="raysft-code-"))
        ends = socket.socketpair()
        answer, other = ends
        with answer, other:
            runs = _started("answer", {"setup": setup, "code": code}, directory, limits, answer)
            stack.callback(runs.close)
            tested = _started("tests", {"setup": setup, "tests": tests}, directory, limits, other)
            stack.callback(tested.close)
        over = _watch(tested, directory, limits)
        found = tested.told()
        runs.end()
        if over:
            return Verdict(over, f"over the limit: {limits.wall_s:g} s, or what may be written")
        if problem := (found if "barrier" in found else runs.told() if "barrier" in runs.told() else None):
            raise NoStartError(problem["barrier"], problem["problem"])
        if "verdict" not in found:
            return Verdict(TIME if tested.is_out_of_time else ENDED, "the tests did not come to their end")
        if found["verdict"] == ENDED and runs.is_out_of_time:
            return Verdict(TIME, f"over {limits.cpu_s} s of processor time")
        return Verdict(found["verdict"], found["why"])


def probe(attempts: Mapping[str, str], limits: Limits, directory: str) -> dict[str, Any]:
    """What a process inside was able to do (attempts.py): {attempts}, {barrier, problem}, or {}: it did not come to
    its end."""
    one, other = socket.socketpair()
    with one, other:
        run = _started("probe", {"attempts": dict(attempts)}, directory, limits, one)
    try:
        _watch(run, directory, limits)
        return run.told()
    finally:
        run.close()


@dataclass
class _Process:
    process: subprocess.Popen[bytes]
    output: IO[bytes]
    was_killed: bool = False

    def told(self) -> dict[str, Any]:
        """What it wrote, {} where that is nothing whole."""
        self.output.seek(0)
        try:
            found = json.loads(self.output.read(_MOST_TOLD))
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def is_out_of_time(self) -> bool:
        """Did the limit of processor time end it?"""
        return self.process.returncode in (-signal.SIGXCPU, -signal.SIGKILL) and not self.was_killed

    def end(self) -> None:
        """Killed where it still runs: it has no children."""
        if self.process.poll() is None:
            self.was_killed = True
            self.process.kill()
            self.process.wait()

    def close(self) -> None:
        """Ended, and what it wrote is gone."""
        self.end()
        self.output.close()


def _started(role: str, job: Mapping[str, Any], directory: str, limits: Limits, link: socket.socket) -> _Process:
    home = str(Path(raysft.__file__).parents[1])
    whole = {
        **job,
        "limits": asdict(limits),
        "directory": directory,
        "readable": readable_of((sys.prefix, sys.base_prefix)),
    }
    home_of_code = directory if role == "answer" else "/nonexistent"  # what an answer leaves there configures no test
    environment = ENVIRONMENT | {"HOME": home_of_code, "TMPDIR": directory}
    if path := os.environ.get("LD_LIBRARY_PATH"):
        environment["LD_LIBRARY_PATH"] = path
    descriptor = link.fileno()
    with tempfile.TemporaryFile() as stdin:
        stdin.write(json.dumps(whole).encode())
        stdin.seek(0)
        output = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the process)
        process = subprocess.Popen(
            [
                sys.executable,
                "-s",
                "-P",
                "-B",
                "-c",
                _PROGRAM.format(home=home),
                role,
                str(descriptor),
                str(os.getpid()),
            ],
            stdin=stdin,
            stdout=output,
            stderr=subprocess.DEVNULL,
            env=environment,
            cwd=directory,
            pass_fds=(descriptor,),
            start_new_session=True,
        )
    return _Process(process, output)


def _watch(run: _Process, directory: str, limits: Limits) -> str:
    """Wait for its end, or end it: TIME or FILES; empty: it ended by itself."""
    deadline = time.monotonic() + limits.wall_s
    over = ""
    while run.process.poll() is None and not over:
        try:
            run.process.wait(_POLL_S)
        except subprocess.TimeoutExpired:
            over = TIME if time.monotonic() > deadline else ""
        if not over and _is_too_full(directory, limits):
            over = FILES
    run.end()
    return over


def _is_too_full(directory: str, limits: Limits) -> bool:
    size = 0
    with os.scandir(directory) as entries:
        for count, entry in enumerate(entries, 1):
            try:
                size += entry.stat(follow_symlinks=False).st_blocks * 512
            except FileNotFoundError:
                continue
            if count > limits.files or size > limits.directory_bytes:
                return True
    return False
