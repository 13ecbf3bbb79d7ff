"""The story that k8s_demo.py has made a place for: one run, five faults, a table. Its argument is a folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import marks
import yaml
from small import make_recipe

from raysft.train.commits.layout import read_commits
from raysft.train.commits.lineage import lineage, read_attempts
from raysft.train.history.records import read_ledger

HERE = Path(__file__).resolve()
LOCAL = HERE.parents[1] / "cluster" / "local"
FAULTS = HERE.with_name("k8s_faults.py")
NODES = ("n1", "n2", "n3")
DASHBOARD = "http://127.0.0.1:8265"
EVERY, EPOCHS, LIMIT_S = 3, 6, 240.0
CUT_S = 60.0
NOTICED_S = 10.0
"""A node that is gone counts as dead within this time."""


@dataclass(frozen=True)
class Row:
    """One fault, and what came of it."""

    fault: str
    kind: str
    """As the run's incident has it."""
    noticed_s: float | None
    """From the fault to the end of the attempt; None: the driver died, too."""
    back_s: float
    """From the fault to the first commit after it."""
    steps_lost: int


@dataclass
class Demo:
    """The run that is shaken, its nodes, and what is kept of each fault."""

    folder: Path
    began: float = field(default_factory=lambda: float(os.environ["BEGAN"]))
    """time.monotonic() of k8s_demo.py."""
    rows: list[Row] = field(default_factory=list)
    job: str = ""
    coming: list[threading.Thread] = field(default_factory=list)
    """Nodes that are being started."""
    cut_at: float = 0.0
    """time.monotonic() when the link was cut."""

    def run(self, name: str = "shaken") -> Path:
        """The directory of a run."""
        return self.folder / "storage" / "runs" / name

    def say(self, text: str) -> None:
        """With the seconds since the beginning."""
        print(f"{time.monotonic() - self.began:5.0f} s  {text}", flush=True)

    def until_up(self) -> None:
        """Return when the nodes are there that k8s_demo.py has begun to start."""
        while not (Path(os.environ["RAYSFT_NODES"]) / "env").exists():
            assert time.monotonic() - self.began < LIMIT_S, "the nodes have not come"
            time.sleep(0.1)

    def submit(self, name: str) -> None:
        """The recipe as a job with a driver of its own, on the head, which may still be starting."""
        deadline = time.monotonic() + LIMIT_S
        while not self.asked("version"):
            assert time.monotonic() < deadline, "the head's dashboard does not answer"
            time.sleep(0.1)
        words = ["ray", "job", "submit", f"--address={DASHBOARD}", "--no-wait", f"--submission-id={name}", "--"]
        subprocess.run([*words, *command("shaken", self.folder)], check=True, env=client(), stdout=subprocess.DEVNULL)
        self.job = name

    def status(self) -> str:
        """What the job server says of the job."""
        return str(self.asked(f"jobs/{self.job}")["status"])

    def asked(self, what: str) -> dict[str, Any]:
        """What the job server answers; empty: nothing listens there."""
        request = urllib.request.Request(f"{DASHBOARD}/api/{what}")
        token = Path(client()["RAY_AUTH_TOKEN_PATH"]).read_text().strip()
        request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                found: dict[str, Any] = json.load(answer)
        except ConnectionError:
            return {}
        except urllib.error.URLError as error:
            if isinstance(error.reason, ConnectionError):
                return {}
            raise
        return found

    def wait(self, is_so: Callable[[], bool], what: str) -> None:
        """Until it is so. Raises AssertionError when the job ends before, or after LIMIT_S."""
        deadline, look = time.monotonic() + LIMIT_S, time.monotonic() + 2
        while not is_so():
            assert time.monotonic() < deadline, f"not within {LIMIT_S:.0f} s: {what}"
            if time.monotonic() > look:
                status, look = self.status(), time.monotonic() + 2
                assert status in ("PENDING", "RUNNING") or is_so(), f"the job is {status}, still expected: {what}"
            time.sleep(0.05)

    def revive(self, *names: str) -> None:
        """Start these nodes again, beside what goes on, as Kubernetes makes new pods."""
        for name in names:
            thread = threading.Thread(target=nodes, args=("start", name))
            thread.start()
            self.coming.append(thread)

    def take(self, how: str, node: str) -> None:
        """Stop or kill a node; another one of its name comes once it has ended."""
        nodes(how, node)
        self.revive(node)

    def cut_in_save(self, node: str) -> None:
        """Cut the link of rank 0's node while a commit record is about to be written."""
        switch(f"held-{node}").touch()
        self.wait(switch(f"waiting-{node}").exists, "a commit that is held")
        nodes("cut", node)
        self.cut_at = time.monotonic()

    def revived(self) -> None:
        """Return when all nodes are there."""
        while self.coming:
            self.coming.pop().join()

    def suffer(self, fault: str, rank: int, strike: Callable[[str], None]) -> str:
        """Strike the node of a rank in an attempt that has committed; return its name once the next one has."""
        run, attempt = self.run(), attempts(self.run())
        self.wait(lambda: commits_of(run, attempt) > 0, f"a commit of attempt {attempt}")
        node = host_of(run, attempt, rank)
        strike(node)  # a commit may be waited for before
        struck = time.time()
        self.wait(lambda: commits_of(run, attempt + 1) > 0, f"a commit after {fault} ({node})")
        back_s, incident = time.time() - struck, marks.incidents(run)[-1]
        noticed_s, lost = incident["at"] - struck, marks.lost_steps(run)[attempt - 1]
        self.rows.append(Row(fault, incident["kind"], noticed_s, back_s, lost))
        self.say(f"{fault} ({node}): noticed after {noticed_s:.1f} s, back after {back_s:.1f} s, {lost} steps lost")
        return node

    def lose_head(self) -> None:
        """The head, with the driver, is killed and started again; the same run is submitted."""
        run, attempt = self.run(), attempts(self.run())
        self.wait(lambda: commits_of(run, attempt) > 0, f"a commit of attempt {attempt}")
        struck = time.time()
        nodes("kill-head")
        kept = [name for name in NODES if name not in cut_off()]
        for name in kept:
            nodes("kill", name)  # as the operator ends the pods of a cluster that has lost its head
        nodes("head")
        self.revive(*kept)
        self.submit("shaken-2")
        self.revived()
        self.wait(lambda: commits_of(run, attempt + 1) > 0, "a commit after the head was lost")
        self.rows.append(
            Row("head lost, submitted again", "", None, time.time() - struck, marks.lost_steps(run)[attempt - 1])
        )
        self.say(f"head lost: back after {self.rows[-1].back_s:.1f} s, {self.rows[-1].steps_lost} steps lost")


def nodes(*words: str) -> None:
    """A command of nodes.sh, which must succeed."""
    subprocess.run([str(LOCAL / "nodes.sh"), *words], check=True, stdout=subprocess.DEVNULL)


def client() -> dict[str, str]:
    """Variables of a process that asks the cluster: token and certificates."""
    secure = Path(os.environ["RAYSFT_NODES"]) / "secure"
    return os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(secure / "token")}


def command(name: str, folder: Path) -> list[str]:
    """`raysft train` of a recipe, with the switches of k8s_faults.py."""
    recipe = make_recipe(
        folder,
        count=900,
        name=name,
        checkpoint__every_steps=EVERY,
        checkpoint__keep_last=3,
        method={"kind": "lora", "rank": 4, "dropout": 0.0},
        train__epochs=EPOCHS,
        export__merged=False,
    )
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    return [sys.executable, str(FAULTS), "train", str(file)]


def left_alone(folder: Path) -> subprocess.Popen[bytes]:
    """The run that nothing happens to, with a network, processes, /tmp and a Ray of its own."""
    script = 'ip link set lo up && mount -t tmpfs tmpfs /tmp && "$@"; exit $?'
    apart = [
        "unshare",
        "--net",
        "--mount",
        "--pid",
        "--fork",
        "--mount-proc",
        "--kill-child",
        "sh",
        "-c",
        script,
        "calm",
    ]
    with (folder / "calm.log").open("w") as said:
        none = os.environ | {"SWITCHES": str(folder)}
        return subprocess.Popen([*apart, *command("calm", folder)], stdout=said, stderr=said, env=none)


def host_of(run: Path, attempt: int, rank: int) -> str:
    """The node that a rank of an attempt is on."""
    file = run / "ledger" / f"attempt-{attempt:04d}" / f"rank-{rank:05d}.jsonl"
    return str(json.loads(file.read_text().splitlines()[0])["host"])


def attempts(run: Path) -> int:
    """How many have begun."""
    return len(list((run / "attempts").glob("attempt-*.json")))


def commits_of(run: Path, attempt: int) -> int:
    """Newest step that an attempt has committed; 0: none."""
    found = (run / "checkpoints" / f"attempt-{attempt:04d}").glob("step-*/commit.json")
    return max((int(path.parent.name.removeprefix("step-")) for path in found), default=0)


def cut_off() -> list[str]:
    """Nodes whose link is down."""
    links = json.loads(subprocess.run(["ip", "-json", "link"], check=True, capture_output=True).stdout)
    return [name for name in NODES for link in links if link["ifname"] == f"v-{name}" and "UP" not in link["flags"]]


def switch(name: str) -> Path:
    """A file of k8s_faults.py."""
    return Path(os.environ["SWITCHES"]) / name


def play(folder: Path) -> int:
    """All of it; the exit code."""
    demo, run = Demo(folder), folder / "storage" / "runs" / "shaken"
    calm = left_alone(folder)
    demo.until_up()
    demo.say(f"a head and {len(NODES)} nodes are up, with TLS and a token")
    switch("slow").touch()
    demo.submit("shaken-1")
    demo.say("the run is submitted")
    demo.wait(lambda: attempts(run) == 1, "the first attempt")
    demo.say("its first attempt has begun")

    demo.suffer("node told to go (SIGTERM)", 1, partial(demo.take, "stop"))
    demo.suffer("node killed (SIGKILL)", 1, partial(demo.take, "kill"))
    demo.revived()
    node = demo.suffer(f"node cut off for {CUT_S:.0f} s", 0, demo.cut_in_save)
    fenced = attempts(run) - 1
    demo.lose_head()
    time.sleep(max(0.0, demo.cut_at + CUT_S - time.monotonic()))
    refused = late_commit(run, fenced, node)
    demo.say(f"the cut-off rank commits step {refused} of attempt {fenced}, which is refused; its link is back")
    nodes("heal", node)
    demo.revive(node)  # as a new pod; the next attempt waits for it
    broken = demo.suffer("node with a broken GPU (ECC)", 0, lambda node: switch(f"broken-{node}").touch())
    switch("slow").unlink()
    demo.wait(lambda: (run / "result.json").exists(), "the end")
    wrong = [*what_differs(demo.run("calm"), run, calm.wait(LIMIT_S)), *what_was_promised(demo.rows)]
    if broken in {host_of(run, attempts(run), rank) for rank in (0, 1)}:
        wrong.append(f"the last attempt is on the broken node {broken}")
    demo.revived()
    nodes("down")
    table(demo)
    print(f"final weights: {'; '.join(wrong) or 'the bits of the run left alone, every sample once an epoch'}")
    return int(bool(wrong))


def late_commit(run: Path, attempt: int, node: str) -> int:
    """Let the cut-off rank write the record that it held back: its step. Raises AssertionError where it counts."""
    before = commits_of(run, attempt)
    switch(f"held-{node}").unlink()
    deadline = time.monotonic() + 10
    while commits_of(run, attempt) == before and time.monotonic() < deadline:
        time.sleep(0.05)
    late = commits_of(run, attempt)
    assert late > before, "the cut-off rank has written no commit record"
    chain = lineage(read_attempts(str(run)), read_commits(str(run)))
    assert (attempt, late) not in [(commit.attempt, commit.step) for commit in chain], "a late commit counts"
    return late


def what_differs(calm: Path, run: Path, code: int) -> list[str]:
    """Of the final weights, the losses, or the samples of each epoch."""
    if code:
        return [f"the run left alone has ended with {code}"]
    try:
        marks.assert_same_bits(calm, run)
        assert marks.largest_difference(calm, run) == 0, "the losses are others"
        marks.assert_each_sample_once(run, steps=len(read_ledger(str(calm))), epochs=EPOCHS)
    except AssertionError as error:
        return [" ".join(str(error).split())[:80] or "a mark is missing"]
    return []


def what_was_promised(rows: list[Row]) -> list[str]:
    """And was not kept."""
    told, _, cut, _, broken = rows
    wrong = [f"the node that was told to go lost {told.steps_lost} steps"] if told.steps_lost else []
    if cut.noticed_s is None or cut.noticed_s > NOTICED_S:
        wrong.append(f"a node that is cut off was noticed after {cut.noticed_s} s, not within {NOTICED_S:.0f} s")
    if broken.kind != "hardware":
        wrong.append(f"a broken GPU was recorded as {broken.kind}")
    return wrong


def table(demo: Demo) -> None:
    """What was lost, and for how long."""
    print(f"\n{'fault':32} {'recorded as':12} {'noticed':>9} {'back':>9} {'steps lost':>11}")
    for row in demo.rows:
        noticed = "" if row.noticed_s is None else f"{row.noticed_s:7.1f} s"
        print(f"{row.fault:32} {row.kind:12} {noticed:>9} {row.back_s:7.1f} s {row.steps_lost:11}")
    print(f"\n{time.monotonic() - demo.began:.0f} s in all")


def logs(folder: Path) -> list[Path]:
    """Of the run left alone, of the nodes, and of the drivers."""
    drivers = Path("/tmp/ray").glob("session_*/logs/job-driver-shaken*.log")
    return [*sorted(folder.glob("*.log")), *sorted((folder / "nodes").glob("*.log")), *sorted(drivers)]


def main() -> None:
    folder = Path(sys.argv[1])
    try:
        sys.exit(play(folder))
    except (AssertionError, subprocess.SubprocessError, OSError) as error:
        for file in logs(folder):
            print(f"--- {file.name}\n{file.read_text(errors='replace')[-3000:]}")
        sys.exit(f"it went wrong: {error}")


if __name__ == "__main__":
    main()
