"""Faults of machines: a partitioned node, a lost head, no memory, ten seconds to end. Promised as in chaos.py.

    python benchmarks/chaos_nodes.py [--only REGEX] [--folder DIR]        needs root (namespaces)

Every row runs in process and mount namespaces of its own: whatever it leaves ends with it, and /tmp/ray is its own.

partition: two nodes with addresses of their own on a bridge; the link of one goes down after the first commit and
comes back once the other has gone on alone. Storage stays reachable for both, so only the fence keeps the cut-off
workers' files out. head: raylet and GCS of the head are killed; the same command goes on in a new cluster.
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1] / "tests" / "support"))
os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", RAY_USAGE_STATS_ENABLED="0")
# Before Ray is imported, and said: `ray start --head` turns the mode on when there is a token, but a node or a driver
# that is given an address does not, and is refused (InvalidAuthToken).
os.environ["RAY_AUTH_MODE"] = "token"
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))

import injector  # noqa: E402
import marks  # noqa: E402
import yaml  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402
from small import make_recipe  # noqa: E402

from raysft.recipe.schema import Recipe  # noqa: E402
from raysft.train.history.records import read_metrics  # noqa: E402

EVERY, LONG_S = 6, 400.0
HEALTH = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_health_check_initial_delay_ms": "1000",
}
"""A cut-off node counts as dead after 5 s; with Ray's defaults after 65."""
HEAD, NODES = "10.77.0.1", {"w1": "10.77.0.11", "w2": "10.77.0.12"}


def recipe(directory: Path, name: str, *, epochs: int = 6, every: int = EVERY, **changes: object) -> Recipe:
    return make_recipe(
        directory,
        count=900,
        name=name,
        checkpoint__every_steps=every,
        checkpoint__keep_last=3,
        method={"kind": "lora", "rank": 4, "dropout": 0.0},
        train__epochs=epochs,
        export__merged=False,
        **changes,
    )


def start(wanted: Recipe, directory: Path, **environment: str) -> subprocess.Popen[str]:
    """`raysft train` in a process of its own; what it says goes to a file."""
    file = directory / f"{wanted.name}.yaml"
    file.write_text(yaml.safe_dump(wanted.model_dump(mode="json")))
    program = "import sys, injector; from raysft.cli import main; injector.arm(); sys.exit(main(sys.argv[1:]))"
    argv = [sys.executable, "-c", program, "train", str(file)]
    kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    said = (directory / f"{wanted.name}.log").open("a")
    path = os.pathsep.join(sys.path)
    return subprocess.Popen(argv, env=kept | {"PYTHONPATH": path, **environment}, stdout=said, stderr=said, text=True)


def until(is_so: Callable[[], bool], limit_s: float = LONG_S) -> None:
    deadline = time.monotonic() + limit_s
    while not is_so():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {limit_s:.0f} s")
        time.sleep(0.05)


def has_committed(run: Path, step: int = EVERY, attempt: int = 1) -> Callable[[], bool]:
    return (run / "checkpoints" / f"attempt-{attempt:04d}" / f"step-{step:08d}" / "commit.json").exists


def path_of(directory: Path, name: str) -> Path:
    return directory / "storage" / "runs" / name


def check(calm: Path, run: Path, *, same_bits: bool, may_lose: int = EVERY) -> str:
    """What is wrong; empty: nothing. may_lose: steps that an attempt may have done in vain."""
    try:
        steps = max(line["step"] for line in read_metrics(str(calm)) if line["kind"] == "step")
        if same_bits:
            marks.assert_same_bits(calm, run)
        assert marks.largest_difference(calm, run) < 1e-4, "the loss curve is another"
        marks.assert_each_sample_once(run, steps=steps, epochs=6)
        marks.assert_nothing_left(run)
        assert max(marks.lost_steps(run)) <= may_lose, f"steps lost: {marks.lost_steps(run)}"
    except AssertionError as error:
        return " ".join(str(error).split())[:80] or "a mark is missing"
    return ""


def story(run: Path) -> str:
    return f"attempts from {marks.parents(run)}, steps lost {marks.lost_steps(run)}"


def undisturbed(directory: Path, calm: Path) -> str:
    """The run that the others are compared with."""
    code = start(recipe(directory, calm.name), directory).wait(LONG_S)
    return f"exit code {code}" if code else ""


def sigterm(directory: Path, calm: Path) -> str:
    """Ten seconds from SIGTERM to the end, with a commit; the same command goes on from there."""
    wanted, run = recipe(directory, "ten-seconds"), path_of(directory, "ten-seconds")
    first = start(wanted, directory)
    until(has_committed(run))
    asked = time.monotonic()
    first.terminate()
    try:
        code = first.wait(10)
    except subprocess.TimeoutExpired:
        first.kill()
        return "it was still there after 10 s"
    took = time.monotonic() - asked
    second = start(wanted, directory).wait(LONG_S)
    print(f"    SIGTERM -> exit code {code} in {took:.1f} s; {story(run)}", flush=True)
    return f"exit codes {code}, {second}" if (code, second) != (75, 0) else check(calm, run, same_bits=True)


def head(directory: Path, calm: Path) -> str:
    """The only node, which is the head, is killed; a new cluster, the same command."""
    wanted, run = recipe(directory, "headless"), path_of(directory, "headless")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    driver = start(wanted, directory, RAY_ADDRESS=cluster.address)
    until(has_committed(run))
    struck = time.monotonic()
    cluster.head_node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)
    try:
        code: int | str = driver.wait(180)
    except subprocess.TimeoutExpired:
        driver.kill()
        code = "none: killed"
    took = time.monotonic() - struck
    again = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    second = start(wanted, directory, RAY_ADDRESS=again.address).wait(LONG_S)
    again.shutdown()
    print(f"    head killed -> driver's exit code {code} after {took:.1f} s; {story(run)}", flush=True)
    return f"exit code {second}" if second else check(calm, run, same_bits=True)


def memory(directory: Path, calm: Path) -> str:
    """A rank takes memory until Ray's monitor ends it; the next attempt has half the rows in a pass."""
    used, total = memory_kb()
    injector.plan(path_of(directory, "hog"), [{"point": "forward", "step": 9, "rank": 1, "act": "hog", "commit": 6}])
    wanted, run = recipe(directory, "hog", parallel={"zero": 2, "auto_micro_batch": True}), path_of(directory, "hog")
    monitor = {
        "RAY_memory_usage_threshold": f"{(used + ROOM_KB) / total:.3f}",
        "RAY_memory_monitor_refresh_ms": "100",
    }
    code = start(wanted, directory, **monitor).wait(LONG_S)
    kinds = [incident["kind"] for incident in marks.incidents(run)]
    rows = [line["micro_batch_rows"] for line in read_metrics(str(run)) if line["kind"] == "start"]
    print(f"    {kinds}; rows in a pass {rows}; {story(run)}", flush=True)
    if code or kinds != ["memory"] or rows != [2, 1]:
        return f"exit code {code}"
    return check(calm, run, same_bits=False)


ROOM_KB = 5 << 20
"""What a cluster and a run may take before the monitor acts."""


def memory_kb() -> tuple[int, int]:
    """(used, total) of this machine."""
    found = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total, free = (int(found[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
    return total - free, total


def run_in(space: str | None, *argv: str) -> None:
    """A command in a network namespace, which must succeed."""
    prefix = ["ip", "netns", "exec", space] if space else []
    subprocess.run([*prefix, *argv], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def bridge() -> None:
    """HEAD on a bridge here, and NODES each in a namespace; this process has a network of its own already."""
    Path("/run/netns").mkdir(exist_ok=True)
    run_in(None, "mount", "-t", "tmpfs", "tmpfs", "/run/netns")
    run_in(None, "ip", "link", "set", "lo", "up")
    run_in(None, "ip", "link", "add", "br0", "type", "bridge")
    run_in(None, "ip", "addr", "add", f"{HEAD}/24", "dev", "br0")
    run_in(None, "ip", "link", "set", "br0", "up")
    for name, address in NODES.items():
        run_in(None, "ip", "netns", "add", name)
        run_in(None, "ip", "link", "add", f"v-{name}", "type", "veth", "peer", "name", "eth0", "netns", name)
        run_in(None, "ip", "link", "set", f"v-{name}", "master", "br0", "up")
        run_in(None, "ip", "-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
        run_in(None, "ip", "-n", name, "link", "set", "eth0", "up")
        run_in(None, "ip", "-n", name, "link", "set", "lo", "up")


def ray_start(space: str | None, address: str, *more: str) -> None:
    ray = str(Path(sys.executable).with_name("ray"))
    prefix = ["ip", "netns", "exec", space, "env", "GLOO_SOCKET_IFNAME=eth0"] if space else []
    argv = [*prefix, ray, "start", f"--node-ip-address={address}", *more]
    environment = os.environ | HEALTH | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(argv, check=True, env=environment, stdout=subprocess.DEVNULL)


def partition(directory: Path, calm: Path) -> str:
    """The node of rank 1 is cut off in a step."""
    run = path_of(directory, "cut-off")
    return cut_off(run, 1, lambda: until(has_committed(run))) or check(calm, run, same_bits=False)


def partition_in_save(directory: Path, calm: Path) -> str:
    """The node of rank 0 is cut off before a commit record, which it writes once the next attempt has begun.

    Lost are the interval that was being saved, and what was done behind that save: less than another one.
    """
    run, late = path_of(directory, "cut-off-in-save"), 2 * EVERY
    injector.plan(run, [{"point": "commit", "step": late, "rank": 0, "act": "hold", "commit": EVERY}])

    def meanwhile() -> None:
        injector.release(run, 0)
        until(has_committed(run, late), 30)
        print(f"    step {late} of attempt 1 was committed after attempt 2 began", flush=True)

    wrong = cut_off(run, 0, lambda: until(lambda: 0 in injector.happened(run)), meanwhile)
    if not wrong and has_committed(run, late)():
        wrong = "what the fence kept out is still there"
    return wrong or check(calm, run, same_bits=False, may_lose=2 * EVERY - 1)


def cut_off(run: Path, rank: int, wait: Callable[[], None], meanwhile: Callable[[], None] = lambda: None) -> str:
    """After wait() the link of a rank's node goes down; it is back once the other node has committed alone.

    meanwhile() is called when the next attempt has begun. In a network of its own: apart() sees to that.
    """
    directory = run.parents[2]
    bridge()
    wanted = recipe(directory, run.name, cluster={"workers": {"min": 1, "max": 2}})
    ray_start(None, HEAD, "--head", "--num-cpus=0", "--port=6379", "--include-dashboard=false")
    for node, address in NODES.items():
        ray_start(node, address, f"--address={HEAD}:6379", "--num-cpus=1")
    driver = start(wanted, directory, RAY_ADDRESS=f"{HEAD}:6379")
    wait()
    node, cut = node_of(marks.pids(run)[rank]), time.monotonic()
    run_in(None, "ip", "link", "set", f"v-{node}", "down")
    until(lambda: (run / "attempts" / "attempt-0002.json").exists() or driver.poll() is not None)
    alone = time.monotonic()
    meanwhile()
    until(lambda: has_commit_of(run, 2) or driver.poll() is not None)
    run_in(None, "ip", "link", "set", f"v-{node}", "up")
    code = driver.wait(LONG_S)
    kinds = [(incident["kind"], incident["workers"]) for incident in marks.incidents(run)]
    print(f"    {node} cut -> next attempt {alone - cut:.1f} s; {kinds}; {story(run)}", flush=True)
    until_gone(run)
    return f"exit code {code}" if code else ""


def node_of(pid: int) -> str:
    """Whose network namespace a process is in."""
    own = os.stat(f"/proc/{pid}/ns/net").st_ino
    return next(name for name in NODES if os.stat(f"/run/netns/{name}").st_ino == own)


def has_commit_of(run: Path, attempt: int) -> bool:
    return any((run / "checkpoints" / f"attempt-{attempt:04d}").glob("*/commit.json"))


def until_gone(run: Path) -> None:
    """The cut-off worker ends by itself once its node is back and was told that it counts as dead."""
    try:
        until(lambda: not any(marks.is_running(pid) for pid in marks.pids(run)), 60)
    except AssertionError:
        print("    a cut-off worker was still there 60 s after the end", flush=True)


CALM = "undisturbed"
ROWS = {
    CALM: undisturbed,
    "SIGTERM with 10 s grace": sigterm,
    "head lost": head,
    "partition of rank 1": partition,
    "partition of rank 0 in a save": partition_in_save,
    "out of memory (Ray's monitor)": memory,
}
OTHER_SPLIT = (partition, partition_in_save, memory)
"""Another number of workers, or other micro-batches: not the same bits."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="rows whose name this regular expression finds")
    parser.add_argument("--folder", help="work here and leave it; only an undisturbed run may be there")
    parser.add_argument("--inside", help="(used by itself) the row to play, in --folder")
    options = parser.parse_args()
    if options.inside:
        sys.exit(play(options.inside, Path(options.folder)))
    kept = True
    with tempfile.TemporaryDirectory() as own:
        folder = Path(options.folder or own)
        for name in ROWS:
            is_wanted = re.search(options.only, name) if name != CALM else not has_ended(path_of(folder, "calm"))
            if is_wanted:
                kept = subprocess.run(apart(name, folder), check=False).returncode == 0 and kept
    sys.exit(not kept)


def has_ended(run: Path) -> bool:
    return (run / "result.json").exists()


def apart(name: str, folder: Path) -> list[str]:
    """A command that plays a row in namespaces of its own. Under a shell, which also waits for the orphans: to Ray a
    process that nobody waited for is alive."""
    own = ["-m", "-p", *(["-n"] if name.startswith("partition") else [])]
    argv = [sys.executable, str(HERE), "--inside", name, "--folder", str(folder)]
    return ["unshare", *own, "-f", "--mount-proc", "--kill-child", "sh", "-c", '"$@"; exit $?', "row", *argv]


def play(name: str, directory: Path) -> int:
    """Play a row, here, and print its end."""
    started = time.monotonic()
    for place in (directory / "ray", Path("/tmp/ray")):
        place.mkdir(exist_ok=True)
    run_in(None, "mount", "--bind", str(directory / "ray"), "/tmp/ray")
    row = ROWS[name]
    try:
        wrong = row(directory, path_of(directory, "calm"))
    except (AssertionError, subprocess.SubprocessError) as error:
        wrong = str(error)
    kind, kept = ("(b)", "losses within 1e-4") if row in OTHER_SPLIT else ("(a)", "same bits")
    kind, kept = ("", "finished") if name == CALM else (kind, kept)
    print(f"{name:38} {kind}  {wrong or kept:28} {time.monotonic() - started:6.1f} s", flush=True)
    if wrong:
        for file in sorted(directory.glob("*.log")):
            print(f"--- {file.name}\n{file.read_text()[-1500:]}", flush=True)
    return int(bool(wrong))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    main()
