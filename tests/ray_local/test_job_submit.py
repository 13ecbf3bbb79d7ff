"""The GSM8K recipe alone and through `ray job submit` against a head node: the same losses to the last digit."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray_head import BIN, Head, environment, ray_head

from raysft.data.text.tokenizer import train_tokenizer
from raysft.train.history.records import read_metrics

ROOT = Path(__file__).resolve().parents[2]
STEPS = 3


@pytest.fixture
def head() -> Iterator[Head]:
    with ray_head() as head:
        yield head


def curve(run: Path) -> list[tuple[int, float, float]]:
    lines = [line for line in read_metrics(str(run)) if line["kind"] == "step"]
    return [(line["step"], line["loss"], line["grad_norm"]) for line in lines]


@pytest.mark.shared
def test_a_submitted_job_gives_the_same_losses(shared_data: Path, tmp_path: Path, head: Head) -> None:
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
    subprocess.run(alone, check=True, cwd=ROOT, env=environment(head.token), timeout=300, capture_output=True)
    submit = [BIN / "ray", "job", "submit", "--address", head.address, "--runtime-env", "cluster/runtime_env.yaml"]
    submit += ["--", sys.executable, "jobs/sft_job.py", recipe, *sets, "--set", "name=job"]
    done = subprocess.run(
        submit, check=False, cwd=ROOT, env=environment(head.token), timeout=300, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    runs = tmp_path / "storage" / "runs"
    assert len(curve(runs / "alone")) == STEPS
    assert curve(runs / "alone") == curve(runs / "job")
