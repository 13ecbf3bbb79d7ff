"""What the pages over a long run cost: its report, its row in the live view, a comparison, in seconds of CPU.

    python benchmarks/watch_speed.py [--steps 100000] [--keep DIR] [--chromium /usr/bin/chromium]

The run is written by the records of a run itself (metrics, ledger, spans of time), without training. With
--chromium the pages are opened in it, headless: seconds from its start until they have loaded, and messages on its
console.
"""

from __future__ import annotations

import argparse
import math
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))


def make_long_run(storage: Path, name: str, steps: int) -> Path:
    """A run of so many steps under way: a loss that falls with noise, an evaluation each hundredth, one attempt."""
    from fakes import FakeGroup, make_recipe, step_info

    from raysft.objectives.reduce import Reduced
    from raysft.run.rundir import claim
    from raysft.train.commits.checkpoint import begin_attempt
    from raysft.train.history import spans
    from raysft.train.history.records import Records, StartFacts

    recipe = make_recipe(name=name, storage=str(storage), data={"eval_fraction": 0.1})
    run = str(storage / "runs" / name)
    claim(run, recipe, "0123456789abcdef")
    draw = random.Random(name)
    with spans.driving(run) as driver:
        driver.phase("train", 1)
        attempt, _ = begin_attempt(run, FakeGroup())
        records, worker = Records(run, attempt.number, 0), spans.WorkerSpans(run, attempt.number, is_writer=True)
        records.start(StartFacts(0, 2, 0.5, 1e12, "guessed", steps))
        for step in range(1, steps + 1):
            loss = 2 + 4 * math.exp(-step / steps * 9) + draw.gauss(0, 0.05)
            told = {"terms": {"nll": loss}, "grad_norm": 1 + draw.random(), "step_s": 0.1 + draw.random() / 50}
            records.step(step_info(step, loss=loss, sample_ids=(2 * step, 2 * step + 1), **told))
            worker.until_now("compute", step)
            if step % max(1, steps // 100) == 0:
                found = Reduced(loss + 0.1, {"nll": loss + 0.1}, {}, {"nll": 1000.0}, 1000.0)
                records.evaluation(step, {"held_out": found})
        records.flush()
        worker.close()
    return Path(run)


def cpu_s(work: Callable[[], object]) -> float:
    """CPU seconds of this process, the least of three."""
    took = []
    for _ in range(3):
        began = time.process_time()
        work()
        took.append(time.process_time() - began)
    return min(took)


def looked_at(chromium: str, address: str) -> tuple[float, list[str]]:
    """Seconds of a whole headless browser, from its start to the page's end, and the lines of the page's console."""
    with tempfile.TemporaryDirectory() as profile:
        command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
        command += ["--enable-logging=stderr", "--v=0", "--dump-dom", address]
        began = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        took = time.perf_counter() - began
    assert "</html>" in done.stdout
    return took, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--steps", type=int, default=100_000)
    options.add_argument("--keep", type=Path, help="where the run is made, or found from a time before")
    options.add_argument("--chromium", help="a browser that opens the pages")
    asked = options.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        storage = asked.keep or Path(scratch)
        for name in ("long", "other"):
            if not (storage / "runs" / name).exists():
                make_long_run(storage, name, asked.steps)
        from raysft.observe.comparison import render_comparison
        from raysft.run.compare import compared_runs
        from raysft.run.live import LiveView

        runs = [str(storage / "runs" / name) for name in ("long", "other")]
        pages: dict[str, Callable[[], str | None]] = {
            "report": lambda: LiveView(str(storage)).run("long"),
            "live view": lambda: LiveView(str(storage)).home(),
            "comparison": lambda: render_comparison(compared_runs(runs)),
        }
        for title, page in pages.items():
            text = page() or ""
            print(f"{title:12} {cpu_s(page):.2f} s of CPU, {len(text) / 1000:,.0f} kB")
            if asked.chromium:
                file = storage / f"{title.replace(' ', '-')}.html"
                file.write_text(text)
                took, told = looked_at(asked.chromium, file.as_uri())
                print(
                    f"{'':12} {took:.2f} s in a browser from its start on, {len(told)} messages on its console {told}"
                )


if __name__ == "__main__":
    main()
