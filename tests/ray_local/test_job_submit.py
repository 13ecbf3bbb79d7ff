"""The GSM8K recipe alone and through `ray job submit` against a head node: the same losses to the last digit."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from raysft.data.text.tokenizer import train_tokenizer
from raysft.train.history.records import read_metrics

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
STEPS = 3
TOKEN = secrets.token_hex(32)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    ours = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "HF_HUB_OFFLINE": "1"}
    return kept | ours | {"PATH": f"{BIN}:{os.environ['PATH']}"}


@pytest.fixture
def job_server() -> Iterator[str]:
    """A head node in its own process group; its job server's address."""
    port, dashboard, agent = free_port(), free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="ray-head-", dir="/tmp") as scratch:
        command = [
            BIN / "ray",
            "start",
            "--head",
            "--block",
            "--num-cpus=2",
            f"--port={port}",
            f"--temp-dir={scratch}",
        ]
        command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", "--include-dashboard=true"]
        command += [f"--dashboard-agent-listen-port={agent}"]  # its fixed default clashes with other clusters here
        log = open(Path(scratch) / "head.log", "w")  # noqa: SIM115 - lives as long as the process
        head = subprocess.Popen(command, stdout=log, stderr=log, env=environment(), start_new_session=True)
        try:
            address = f"http://127.0.0.1:{dashboard}"
            wait_for(f"{address}/api/version")
            yield address
        finally:
            os.killpg(head.pid, signal.SIGTERM)
            try:
                head.wait(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(head.pid, signal.SIGKILL)
                head.wait(timeout=20)
            log.close()


def wait_for(url: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(url, timeout=2).read()
            return
        except urllib.error.HTTPError:
            return  # it answers: 401, since Ray asks for its token
        except OSError:
            assert time.monotonic() < deadline, f"nothing answers at {url}"
            time.sleep(0.3)


def curve(run: Path) -> list[tuple[int, float, float]]:
    lines = [line for line in read_metrics(str(run)) if line["kind"] == "step"]
    return [(line["step"], line["loss"], line["grad_norm"]) for line in lines]


@pytest.mark.shared
def test_a_submitted_job_gives_the_same_losses(shared_data: Path, tmp_path: Path, job_server: str) -> None:
    data = shared_data / "gsm8k_train.jsonl"
    columns = {"instruction": "question", "output": "answer"}
    train_tokenizer([str(data)], columns=columns, vocab_size=4000, template="chatml", out=str(tmp_path / "tokenizer"))
    settings = {
        "data.train": data,
        "storage": tmp_path / "storage",
        "model.tokenizer": tmp_path / "tokenizer",
        "train.max_steps": STEPS,
        "train.rows_per_step": 4,
        "optimizer.warmup_steps": 2,
        "evaluate.max_rows": 2,
        "evaluate.every_steps": STEPS,
    }
    sets = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    recipe = "jobs/recipes/gsm8k.yaml"
    alone = [BIN / "raysft", "train", recipe, *sets, "--set", "name=alone"]
    subprocess.run(alone, check=True, cwd=ROOT, env=environment(), timeout=300, capture_output=True)
    submit = [BIN / "ray", "job", "submit", "--address", job_server, "--runtime-env", "cluster/runtime_env.yaml"]
    submit += ["--", sys.executable, "jobs/sft_job.py", recipe, *sets, "--set", "name=job"]
    done = subprocess.run(
        submit, check=False, cwd=ROOT, env=environment(), timeout=300, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    runs = tmp_path / "storage" / "runs"
    assert len(curve(runs / "alone")) == STEPS
    assert curve(runs / "alone") == curve(runs / "job")
