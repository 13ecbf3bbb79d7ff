"""The whole way once, with Ray: `raysft train` on one GPU, its worker killed in the middle."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpu.run import Options

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
RECIPE = """
name: kit
storage: {folder}/storage
model:
  source: random
  tokenizer: {folder}/tokenizer
  config: {{model_type: llama, hidden_size: 128, intermediate_size: 352, num_hidden_layers: 3, num_attention_heads: 4,
    num_key_value_heads: 2, max_position_embeddings: 512, tie_word_embeddings: true}}
data: {{train: {folder}/reverse.jsonl, eval_fraction: 0.02, template: chatml, max_tokens: 256}}
train: {{max_steps: {steps}, rows_per_step: 12, micro_batch_rows: 6, precision: {precision}}}
optimizer: {{learning_rate: 3.0e-3, warmup_steps: 20}}
parallel: {{zero: 2}}
cluster: {{workers: 1, gpus_per_worker: {gpus}}}
checkpoint: {{every_steps: 20}}
evaluate: {{every_steps: 40, max_rows: 16, generate_prompts: 40, max_new_tokens: 16}}
"""


def whole(options: Options) -> Iterator[dict[str, Any]]:
    """Tokenizer, data, training, a SIGKILL between two commits, resume, evaluation, export."""
    steps = 60 if options.tiny else 400
    with tempfile.TemporaryDirectory() as name:
        folder, run = Path(name), Path(name) / "storage" / "runs" / "kit"
        draw = random.Random(0)
        words = [
            "".join(draw.choices(LETTERS, k=draw.randint(4, 8))) for _ in range(4_000 if options.tiny else 40_000)
        ]
        lines = [json.dumps({"instruction": f"Reverse {word}", "output": word[::-1]}) for word in words]
        (folder / "reverse.jsonl").write_text("\n".join(lines))
        gpus, precision = (1, "bf16") if options.device == "cuda" else (0, "fp32")
        text = RECIPE.format(folder=folder, steps=steps, precision=precision, gpus=gpus)
        (folder / "kit.yaml").write_text(text)
        tokenizer = ["tokenizer", "train", "reverse.jsonl", "--out", "tokenizer", "--vocab-size", "280"]
        yield {"tokenizer": ended(raysft(folder, options.out / "whole-tokenizer.log", *tokenizer), 60)}
        started, log = time.monotonic(), options.out / "whole-train.log"
        training = raysft(folder, log, "train", "kit.yaml")
        killed = kill_worker(run, training, within_s=100)
        yield {
            "killed": killed,
            "killed_after_s": round(time.monotonic() - started, 1),
            "printed": last_lines(log),
        }
        code = ended(training, 90)
        attempts = [json.loads(p.read_text()) for p in sorted((run / "attempts").glob("*.json"))]
        if code != 0 or not killed:
            keep_logs_of_ray(options.out)
        exported = (run / "export" / "merged" / "model.safetensors").exists()
        yield {
            "exit_code": code,
            "seconds": round(time.monotonic() - started, 1),
            "resumed_from": [attempt["parent"] for attempt in attempts],
            "printed": last_lines(log),
            "ok": code == 0 and killed and len(attempts) == 2 and exported,
        }


def ended(process: subprocess.Popen[bytes], within_s: float) -> int | None:
    """Its exit code; None where it had to be ended."""
    try:
        return process.wait(timeout=within_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
        return None


def keep_logs_of_ray(out: Path) -> None:
    """The end of each log of the newest Ray session, 64 KiB at most, into one file: the machine forgets them."""
    logs = sorted(Path("/tmp/ray/session_latest/logs").glob("*"))
    with (out / "whole-ray.log").open("wb") as file:
        for log in logs:
            if log.is_file() and log.stat().st_size:
                file.write(f"==== {log.name}\n".encode() + log.read_bytes()[-65_536:] + b"\n")


def last_lines(log: Path) -> list[str]:
    """The end of what a command printed."""
    return [line[:160] for line in log.read_text(errors="replace").splitlines()[-30:]]


def raysft(folder: Path, log: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """A command of the package, in `folder`; what it prints goes to the file `log`."""
    code = "import sys; from raysft.cli import main; sys.exit(main(sys.argv[1:]))"
    with log.open("wb") as stream:
        return subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            cwd=folder,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )


def kill_worker(run: Path, training: subprocess.Popen[bytes], within_s: float) -> bool:
    """SIGKILL the worker of the first attempt once its metrics are past step 30. False: the run ended before."""
    metrics, ledger = run / "metrics" / "attempt-0001.jsonl", run / "ledger" / "attempt-0001" / "rank-00000.jsonl"
    deadline = time.monotonic() + within_s
    while training.poll() is None and time.monotonic() < deadline:
        lines = metrics.read_text().splitlines() if metrics.exists() else []
        steps = [json.loads(line)["step"] for line in lines if line.endswith("}")]
        if steps and steps[-1] >= 30:
            os.kill(json.loads(ledger.read_text().splitlines()[0])["pid"], signal.SIGKILL)
            return True
        time.sleep(0.02)
    return False
