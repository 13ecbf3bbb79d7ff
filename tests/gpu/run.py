"""The GPU kit: what only a GPU can tell of raysft, in order of worth, within minutes.

    python tests/gpu/run.py --out DIR --budget 480          # on a machine with a GPU
    python tests/gpu/run.py --out DIR --device cpu --tiny   # the same code without one: what CI runs

Each step is a process of its own with a time limit. Each prints one line of JSON, kept in DIR/gpu.jsonl; a table
comes last. Exit code 1 when a step failed or found something wrong. Steps that the budget no longer holds are left
out, and the table says so. tests/gpu/pack.sh makes a folder of wheels for a machine that has torch and no network.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:1] = [str(HERE.parent), str(HERE.parent / "support")]
sys.path.insert(0, str(HERE.parents[1] / "platform"))

LIMITS_S = {
    "facts": 40,
    "fork_server": 60,
    "whole": 270,
    "waits": 60,
    "saves": 120,
    "isolation": 60,
    "memory": 150,
    "speed": 180,
    "parity": 150,
    "attention": 60,
    "head": 60,
    "spread_out": 60,
}
"""Seconds a step may take, in the order in which they are run: what no GPU has told yet comes first."""


@dataclass(frozen=True)
class Options:
    """What a step is told."""

    device: str
    """cuda or cpu."""
    tiny: bool
    """Sizes that a CPU can do in seconds."""
    profile: bool = False
    """Where the time of a step goes, too."""
    out: Path = Path("build/gpu")
    """A folder that comes back: what a step leaves there is there even when the step is killed."""


def run_step(name: str, options: Options) -> Iterator[dict[str, Any]]:
    """The figures of one step, in this process, as they are found. `ok` False: something is wrong."""
    where = {"facts": "machine", "fork_server": "machine", "whole": "whole", "waits": "waits"}
    where |= dict.fromkeys(("attention", "isolation", "head", "spread_out"), "kernels")
    module = importlib.import_module(f"gpu.{where.get(name, 'engines')}")  # no more: the fork server counts threads
    yield from getattr(module, name)(options)


def run_apart(name: str, options: Options, limit_s: float, log: Path) -> dict[str, Any]:
    """The figures of one step, from a process of its own; `error` where it fails or takes longer, beside what it had
    found by then."""
    command = [sys.executable, __file__, "--step", name, "--device", options.device]
    command += ["--out", str(options.out)]
    command += ["--tiny"] * options.tiny + ["--profile"] * options.profile
    environment = os.environ | {"DS_ACCELERATOR": options.device, "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
    environment["OMP_NUM_THREADS"] = "1" if name == "fork_server" else "2"  # as Ray starts workers, small models
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=stream, env=environment, start_new_session=True
        )
        try:
            printed, _ = process.communicate(timeout=limit_s)
            error = f"exit code {process.returncode}" if process.returncode else None
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # and what it has started
            printed, _ = process.communicate()
            error = f"took longer than {limit_s:.0f} s"
    found: dict[str, Any] = {}
    for line in printed.decode(errors="replace").splitlines():
        if line.startswith("{") and line.endswith("}"):
            found |= json.loads(line)
    return found if error is None else found | {"ok": False, "error": f"{error}: {last_lines(log)}"}


NEEDED = ("transformers", "pyarrow", "pandas", "peft", "accelerate", "deepspeed", "ray", "pydantic", "orjson")
NEEDED += ("google.protobuf", "psutil", "msgpack", "tiktoken", "einops", "ninja", "cpuinfo", "requests")
"""Modules without which a step cannot run, of the machine's own packages and of pack.sh's."""


def missing() -> list[str]:
    """Those of them that are not here."""
    return [name for name in NEEDED if not is_here(name)]


def is_here(name: str) -> bool:
    """Is there such a module? Nothing is imported but what it lies in."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def last_lines(log: Path) -> str:
    """The end of what a step wrote to its standard error."""
    return " | ".join(log.read_text(errors="replace").splitlines()[-6:])[-700:]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("build/gpu"))
    parser.add_argument("--budget", type=float, default=480, help="seconds for all steps")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--profile", action="store_true", help="say where the time of a step goes, too")
    parser.add_argument("--only", default=",".join(LIMITS_S), help="names of steps")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    given = parser.parse_args()
    options = Options(given.device, given.tiny, given.profile, given.out.resolve())
    if given.step:
        for found in run_step(given.step, options):
            print(json.dumps(found), flush=True)
        return 0
    if lacking := missing():
        print(f"this Python lacks {', '.join(lacking)}: install them, or the wheels that tests/gpu/pack.sh makes")
        return 2
    given.out.mkdir(parents=True, exist_ok=True)
    began, table = time.monotonic(), []
    for name in given.only.split(","):
        left = given.budget - (time.monotonic() - began)
        started = time.monotonic()
        if left < LIMITS_S[name] / 3:
            found = {"error": "left out: no budget left"}
        else:
            found = run_apart(name, options, min(LIMITS_S[name], left), given.out / f"{name}.log")
        line = {"step": name, "seconds": round(time.monotonic() - started, 1), **found}
        with (given.out / "gpu.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line)[:2500], flush=True)
        state = "ok" if found.get("ok", "error" not in found) else str(found.get("error", "WRONG"))[:80]
        table.append((name, f"{line['seconds']:.1f} s", state))
    for row in table:
        print("{:<12}{:>9}  {}".format(*row))
    return 0 if all(state == "ok" or state.startswith("left out") for _, _, state in table) else 1


if __name__ == "__main__":
    sys.exit(main())
