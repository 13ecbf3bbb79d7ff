"""`raysft submit` against a head node with a token: followed over a way that breaks, stopped, resumed, listed."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import write_material
from ray_head import Head, Way, ray_head

from raysft.train.history.records import read_metrics

ROOT = Path(__file__).resolve().parents[2]
STEPS = 100_000
"""More than are ever done here: a run ends when it is stopped."""


@pytest.fixture
def head() -> Iterator[Head]:
    with ray_head(PYTHONPATH="") as head:
        yield head


def command(folder: Path, token: str | None, *words: str) -> subprocess.Popen[str]:
    """`raysft ...` from another directory, in an environment that knows nothing of the cluster but a token."""
    folder.mkdir(exist_ok=True)
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "PYTHONPATH": str(ROOT / "platform")}
    environment |= {"RAY_AUTH_TOKEN": token} if token else {}
    return subprocess.Popen(
        [sys.executable, "-m", "raysft.cli", *words],
        cwd=folder,
        env=environment | {"OF_THE_SHELL": "here"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def until(stream: Iterator[str], word: str) -> str:
    """Lines up to the first that has this word."""
    seen = []
    for line in stream:
        seen.append(line)
        if word in line:
            break
    assert word in seen[-1], "".join(seen)
    return "".join(seen)


def steps(run: Path) -> list[int]:
    return [line["step"] for line in read_metrics(str(run)) if line["kind"] == "step"]


@pytest.mark.ray
def test_a_run_is_sent_followed_stopped_and_goes_on(tmp_path: Path, head: Head) -> None:
    recipe = str(write_material(tmp_path / "shared"))
    away, way = tmp_path / "elsewhere", Way(head.address)
    sets = ["--set", f"train.max_steps={STEPS}", "--set", "data.eval_fraction=0"]
    submit = ["submit", recipe, "--address", way.address, "--env", "OF_THE_SHELL", *sets]

    nobody, stranger = command(away, None, *submit), command(away, "f" * 64, *submit)
    for process, told in ((nobody, "got: 401"), (stranger, "got: 403")):
        code, _, err = ended(process)
        assert (code, told in err) == (2, True), err

    first = command(away, head.token, *submit)
    assert first.stdout is not None
    until(first.stdout, "Running entrypoint")
    code, _, err = ended(command(away, head.token, *submit))
    assert (code, "got: tiny-1 (RUNNING)" in err) == (2, True), err

    shown = until(first.stdout, "step 1/")
    assert way.cut() > 0
    stop = command(away, head.token, "jobs", "stop", "tiny-1", "--address", head.address)
    time.sleep(2)
    way.mend()
    code, _, err = ended(stop)
    assert (code, "tiny-1 has ended: STOPPED" in err) == (0, True), err
    code, rest, err = ended(first)
    assert code == 75, err
    assert "is committed" in rest
    assert "does not answer" in err
    assert (shown + rest).count("step 1/") == 1, "shown once, though the stream began anew"

    run = Path(recipe).parent / "storage" / "runs" / "tiny"
    before = steps(run)
    assert before == list(range(1, len(before) + 1))
    again = command(away, head.token, *submit)
    assert again.stdout is not None
    until(again.stdout, f"attempt 2 starts from step {len(before)}")
    deadline = time.monotonic() + 60
    while len(steps(run)) <= len(before):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert ended(command(away, head.token, "jobs", "stop", "tiny-2", "--address", head.address))[0] == 0
    code, out, err = ended(again)
    assert code == 75, out + err
    assert "it goes on where tiny-1 ended (STOPPED)" in err
    assert steps(run) == list(range(1, len(steps(run)) + 1))

    code, out, _ = ended(command(away, head.token, "jobs", "list", "--address", way.address))
    table = [line.split()[:4] for line in out.splitlines()]
    assert table[1:] == [["tiny-1", "STOPPED", "tiny", "train"], ["tiny-2", "STOPPED", "tiny", "train"]]
    assert head.token not in out + err
