"""A long-lived group of engine processes, driven over pipes; ended by its own handles."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).with_name("engine_process.py")
SUPPORT = Path(__file__).parents[1] / "support"


class EngineProcesses:
    """`size` ranks on gloo. run(cell) -> one result per rank."""

    def __init__(self, size: int, directory: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._results, self._processes = [], []
        for rank in range(size):
            results = directory / f"results-{size}-{rank}.jsonl"
            results.touch()
            environment = os.environ | {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(size),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "DS_ACCELERATOR": "cpu",
                "OMP_NUM_THREADS": "1",
                "RESULTS": str(results),
                "PYTHONPATH": os.pathsep.join(filter(None, [str(SUPPORT), os.environ.get("PYTHONPATH")])),
                "PATH": "/nonexistent",  # no compiler is needed: neither found,
                "TORCH_EXTENSIONS_DIR": str(directory / "extensions"),  # nor used from an earlier build
            }
            log = open(directory / f"log-{size}-{rank}.txt", "w")  # noqa: SIM115 - lives as long as the process
            process = subprocess.Popen(
                [sys.executable, str(SCRIPT)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
                text=True,
            )
            self._processes.append(process)
            self._results.append(results)
        self._count = 0

    def run(self, cell: dict[str, Any], timeout_s: float = 300) -> list[dict[str, Any]]:
        """Run one cell on all ranks; the answer of each."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(json.dumps(cell) + "\n")
            process.stdin.flush()
        self._count += 1
        deadline = time.monotonic() + timeout_s
        answers = []
        for process, results in zip(self._processes, self._results, strict=True):
            while len(lines := results.read_text().split("\n")[:-1]) < self._count:
                assert process.poll() is None, (
                    f"an engine process ended with {process.returncode}; see {results.parent}"
                )
                assert time.monotonic() < deadline, f"no answer in {timeout_s} s"
                time.sleep(0.02)
            answer = json.loads(lines[self._count - 1])
            assert "error" not in answer, answer["traceback"]
            answers.append(answer)
        return answers

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait(timeout=30)
