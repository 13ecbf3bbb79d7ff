"""What a run on a cluster survives: nodes with addresses, processes and /tmp of their own, TLS and a token.

    make k8s-demo          needs root (namespaces); nothing is left

One run of two workers loses, one after the other: a node that is told to go (SIGTERM, as Kubernetes ends a pod), a
node that is killed, a node whose link is cut, and the head. Each time it goes on by itself, after the head by the
same command; it ends with the bits of a run that was left alone. cluster/local/nodes.sh makes the nodes.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve()
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent))
os.environ["RAY_AUTH_TOKEN"] = "replaced by that of nodes.sh"
import chaos_nodes  # noqa: E402

del os.environ["RAY_AUTH_TOKEN"]
import marks  # noqa: E402

NODES = ("n1", "n2", "n3")
EVERY, EPOCHS, LIMIT_S = 20, 20, 240.0
DRAIN_S = 15


@dataclass(frozen=True)
class Row:
    """One fault, and what came of it."""

    fault: str
    back_s: float
    """From the fault to the first commit after it."""
    steps_lost: int
    kind: str
    """As the run's incident has it."""


def nodes(*words: str) -> None:
    """A command of nodes.sh, which must succeed."""
    subprocess.run([str(ROOT / "cluster" / "local" / "nodes.sh"), *words], check=True, stdout=subprocess.DEVNULL)


def environment() -> dict[str, str]:
    """What nodes.sh says is to be sourced."""
    lines = (Path(os.environ["RAYSFT_NODES"]) / "env").read_text().splitlines()
    pairs = [pair for line in lines for pair in shlex.split(line) if "=" in pair]
    return dict(pair.split("=", 1) for pair in pairs)


def up() -> None:
    nodes("up", str(len(NODES)))


def train(directory: Path, name: str) -> subprocess.Popen[str]:
    wanted = chaos_nodes.recipe(directory, name, epochs=EPOCHS, every=EVERY)
    return chaos_nodes.start(wanted, directory, **environment())


def host_of(run: Path, attempt: int, rank: int) -> str:
    """The node that a rank of an attempt is on."""
    file = run / "ledger" / f"attempt-{attempt:04d}" / f"rank-{rank:05d}.jsonl"
    return str(json.loads(file.read_text().splitlines()[0])["host"])


def attempts(run: Path) -> int:
    return len(list((run / "attempts").glob("attempt-*.json")))


def commits(run: Path) -> int:
    """Newest committed step."""
    found = (run / "checkpoints").glob("attempt-*/step-*/commit.json")
    return max((int(path.parent.name.removeprefix("step-")) for path in found), default=0)


def suffer(
    run: Path, driver: subprocess.Popen[str], strike: Callable[[str], None], fault: str, rank: int = 0
) -> tuple[str, Row]:
    """Strike the node of a rank once it has committed twice; return when the next attempt has committed."""
    attempt = attempts(run)
    before = commits(run)
    wait(driver, lambda: commits(run) >= before + EVERY)
    node = host_of(run, attempt, rank)
    strike(node)
    struck = time.monotonic()
    wait(driver, lambda: attempts(run) > attempt and chaos_nodes.has_commit_of(run, attempt + 1))
    row = Row(
        fault, time.monotonic() - struck, chaos_nodes.lost_steps(run)[attempt - 1], marks.incidents(run)[-1]["kind"]
    )
    print(f"    {row.fault} ({node}): back after {row.back_s:.1f} s, {row.steps_lost} steps lost", flush=True)
    return node, row


def wait(driver: subprocess.Popen[str], is_so: Callable[[], bool]) -> None:
    chaos_nodes.until(lambda: is_so() or driver.poll() is not None, LIMIT_S)
    assert driver.poll() is None, f"the driver has ended with {driver.returncode}"


def play(directory: Path) -> int:
    """All of it; the exit code."""
    began, rows = time.monotonic(), []
    up()
    calm, run = (directory / "storage" / "runs" / name for name in ("calm", "shaken"))
    code = train(directory, "calm").wait(LIMIT_S)
    assert code == 0, "the run that is left alone"
    print(f"    left alone: {commits(calm)} steps, {time.monotonic() - began:.1f} s from nothing", flush=True)

    driver = train(directory, "shaken")
    chaos_nodes.until(lambda: attempts(run) == 1, LIMIT_S)
    node, row = suffer(run, driver, lambda node: nodes("stop", node), "node told to go (SIGTERM)")
    rows.append(row)
    nodes("start", node)
    node, row = suffer(run, driver, lambda node: nodes("kill", node), "node killed (SIGKILL)", rank=1)
    rows.append(row)
    nodes("start", node)
    node, row = suffer(run, driver, lambda node: nodes("cut", node), "node cut off (partition)")
    rows.append(row)
    nodes("heal", node)

    attempt, reached = attempts(run), commits(run)
    nodes("kill-head")
    struck = time.monotonic()
    code = driver.wait(LIMIT_S)
    ended_s = time.monotonic() - struck
    nodes("down")
    up()
    driver = train(directory, "shaken")
    chaos_nodes.until(lambda: commits(run) > reached or driver.poll() is not None, LIMIT_S)
    back_s = time.monotonic() - struck
    last = driver.wait(LIMIT_S)
    rows.append(
        Row("head lost; the same command again", back_s, chaos_nodes.lost_steps(run)[attempt - 1], f"exit {code}")
    )
    wrong = what_differs(calm, run) if last == 0 else f"exit code {last}"
    nodes("down")
    table(rows, time.monotonic() - began)
    print(
        f"driver's end after the head's: {ended_s:.0f} s; final weights: {wrong or 'the bits of the run left alone'}"
    )
    lost = rows[0].steps_lost
    if lost:
        print(f"the node that was told to go lost {lost} steps: expected 0")
    return int(bool(wrong or lost))


def what_differs(calm: Path, run: Path) -> str:
    """Of the final weights, the losses, or the samples of each epoch; empty: nothing."""
    try:
        marks.assert_same_bits(calm, run)
        assert marks.largest_difference(calm, run) == 0, "the losses are others"
        marks.assert_each_sample_once(run, steps=commits(calm), epochs=EPOCHS)
    except AssertionError as error:
        return " ".join(str(error).split())[:80] or "a mark is missing"
    return ""


def table(rows: list[Row], took_s: float) -> None:
    print(f"\n{'fault':36} {'recorded as':12} {'back after':>10} {'steps lost':>10}")
    for row in rows:
        print(f"{row.fault:36} {row.kind:12} {row.back_s:8.1f} s {row.steps_lost:10}")
    print(f"\n{took_s:.0f} s in all")


def main() -> None:
    if "--inside" in sys.argv:
        try:
            sys.exit(play(Path(sys.argv[-1])))
        except (AssertionError, subprocess.SubprocessError) as error:
            for file in sorted(Path(sys.argv[-1]).glob("*.log")):
                print(f"--- {file.name}\n{file.read_text()[-3000:]}")
            sys.exit(f"it went wrong: {error}")
    if os.geteuid() != 0:
        sys.exit("namespaces want root: sudo make k8s-demo")
    (ROOT / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / "build", prefix="k8s-demo-") as folder:
        # A network, mounts and processes of its own: whatever is left ends with it.
        apart = ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c"]
        script = 'mkdir -p /run/netns && mount -t tmpfs tmpfs /run/netns && mount -t tmpfs tmpfs /tmp; "$@"; exit $?'
        argv = [*apart, script, "demo", sys.executable, str(HERE), "--inside", folder]
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        more = {"RAYSFT_NODES": f"{folder}/nodes", "RAYSFT_DASHBOARD": "false", "DRAIN_S": str(DRAIN_S), "PATH": path}
        modules = os.pathsep.join([str(ROOT / "platform"), str(ROOT / "tests" / "support")])
        sys.exit(subprocess.run(argv, env=os.environ | more | {"PYTHONPATH": modules}).returncode)


if __name__ == "__main__":
    main()
