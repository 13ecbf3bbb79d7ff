"""Memory of `prepare` for a size of data and for ten times as much: it must not grow with the data.

    python benchmarks/data_memory.py gsm8k_train.jsonl [--megabytes 20] [--mode prepared|stream]

Peak of the summed proportional set size (PSS, /proc/*/smaps_rollup) of the driver and all processes of its Ray
cluster, sampled every 0.2 s, the object store capped at 256 MiB. A cluster of its own for every measurement.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

from data_pipeline import MAX_TOKENS, make_file, processes_below

OBJECT_STORE_BYTES = 256 << 20


def pss_bytes(pid: int) -> int:
    """Summed PSS of a process and its descendants."""
    total = 0
    for one in processes_below(pid):
        try:
            text = Path(f"/proc/{one}/smaps_rollup").read_text()
        except OSError:
            continue
        total += next((int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")), 0)
    return total << 10


class Peak:
    """Samples this process's tree in a thread."""

    def __init__(self) -> None:
        self.bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._stop.wait(0.2):
            self.bytes = max(self.bytes, pss_bytes(os.getpid()))


def prepared(path: str, tokenizer: str, storage: str, mode: str) -> dict[str, float]:
    """Prepare, or stream one epoch, on a cluster of 2 CPUs."""
    import ray

    from raysft.data.prepare.prepare import prepare
    from raysft.recipe.load import parse_recipe

    data = {"train": path, "template": "chatml", "max_tokens": MAX_TOKENS}
    if mode == "stream":
        data |= {"mode": "stream", "order": "windowed"}
    recipe = parse_recipe(
        {
            "name": "bench",
            "storage": storage,
            "model": {"source": "random", "config": {"model_type": "llama"}, "tokenizer": tokenizer},
            "data": data,
            "train": {"max_steps": 10},
        }
    )
    started = time.perf_counter()
    with Peak() as peak:
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=OBJECT_STORE_BYTES,
        )
        if mode == "stream":
            from raysft.data.feed.stream import Cursor, windows
            from raysft.data.feed.stream_source import stream_source

            rows = 0
            for window in windows(stream_source(recipe, cpus_per_task=1), Cursor()):
                if window.rows is None:
                    break
                rows += window.rows.num_rows
        else:
            rows = prepare(recipe).train_manifest["counts"]["rows"]
    ray.shutdown()
    return {"peak_mib": peak.bytes / 2**20, "rows": rows, "wall_s": time.perf_counter() - started}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", nargs="+", type=Path)
    parser.add_argument("--megabytes", type=float, default=20.0)
    parser.add_argument("--mode", choices=("prepared", "stream"), default="prepared")
    parser.add_argument("--folder", type=Path, default=Path("build/bench-memory"))
    options = parser.parse_args()
    from raysft.data.text.tokenizer import train_tokenizer

    folder = options.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    make_file(folder / "some.jsonl", options.data, sum(p.stat().st_size for p in options.data) / 1e6 * 1.5)
    tokenizer = str(folder / "tokenizer")
    train_tokenizer([str(folder / "some.jsonl")], columns={}, vocab_size=16_000, template="chatml", out=tokenizer)
    peaks = []
    for factor in (1, 10):
        path = folder / f"x{factor}.jsonl"
        make_file(path, options.data, options.megabytes * factor)
        storage = folder / f"storage-{factor}"
        command = [sys.executable, __file__, "--one", str(path), tokenizer, str(storage), options.mode]
        done = subprocess.run(command, capture_output=True, text=True, timeout=3000, check=False)
        if done.returncode:
            sys.exit(done.stderr[-3000:])
        found = json.loads(done.stdout.splitlines()[-1])
        peaks.append(found["peak_mib"])
        print(
            f"{path.stat().st_size / 1e6:,.0f} MB: peak {found['peak_mib']:,.0f} MiB", json.dumps(found), flush=True
        )
        shutil.rmtree(storage, ignore_errors=True)
        path.unlink()
    print(f"{options.mode}: ten times the data, {peaks[1] / peaks[0]:.3f} times the memory")
    shutil.rmtree(folder)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(prepared(*sys.argv[2:6])))
    else:
        main()
