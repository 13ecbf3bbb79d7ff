"""An evaluation of a model that is larger than the memory of its process: the same losses and answers as in any.

    python benchmarks/evaluate_large.py [--layers 24] [--hidden 1024] [--share 0.5] [--folder DIR]

A Llama of 0.4B parameters in bf16 files, evaluated as before training by the function of the cluster's task, in a
process of its own: rows of random tokens, eight prompts of 16 new tokens. limited: in a process that may have no more
than SHARE of the model in fp32 (RLIMIT_DATA) besides what it has when all is imported. Layers that do not fit are in
files then. Equal: all losses and answers to the bit.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parent))
sys.path.insert(0, str(HERE.parents[1] / "tests" / "support"))
os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="2", DS_ACCELERATOR="cpu")

from load_memory import make_files  # noqa: E402

PROMPTS, NEW_TOKENS = 8, 16


def recipe_of(folder: Path, precision: str) -> Any:
    from fakes import make_recipe

    return make_recipe(
        storage=str(folder / "storage"),
        model={"source": str(folder / "base"), "config": None, "tokenizer": None},
        data={"train": str(folder / "data.jsonl"), "eval_fraction": 0.5, "max_tokens": 128},
        evaluate={"generate_prompts": PROMPTS, "max_new_tokens": NEW_TOKENS, "max_rows": 4},
        train={"precision": precision, "rows_per_step": 4},
        cluster={"cpus_per_worker": 2},
    )


def make_material(folder: Path, layers: int, hidden: int) -> str:
    """Model, tokenizer, and held-out rows and prompts; returns where these are."""
    from fakes import make_tokenizer

    from raysft.run.data_steps import prepare_data

    for where, sizes in ((folder, (layers, hidden)), (folder / "tiny", (1, 64))):
        make_files(where / "base", *sizes)
        make_tokenizer().save_pretrained(where / "base")
    with (folder / "data.jsonl").open("w") as stream:
        for number in range(64):
            stream.write(
                json.dumps({"instruction": f"say {number}", "output": f"{number} " * (number % 7 + 1)}) + "\n"
            )
    return next(iter(prepare_data(recipe_of(folder, "bf16")).eval_stores.values()))


def evaluated(folder: Path, precision: str, store: str, limit: int) -> dict[str, Any]:
    """What the task finds in this process. limit: bytes that it may have besides what it has; 0: none."""
    from raysft.run import remote_tasks
    from raysft.run.room import host_memory

    fields = recipe_of(folder, precision).model_dump(mode="json")
    if limit:
        tiny = recipe_of(folder / "tiny", precision).model_dump(mode="json")  # imports all that is needed
        remote_tasks.evaluate_initial(tiny, {"held_out": store}, (0, 1))
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        most = int(status["VmData"].split()[0]) * 1024 + limit
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
        assert host_memory() <= limit
    began = time.monotonic()
    found = remote_tasks.evaluate_initial(fields, {"held_out": store}, (0, 1))
    return {"seconds": time.monotonic() - began, "found": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--folder", help="where the files are put; a temporary one without it")
    parser.add_argument("--do", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.do is not None:
        precision, store, limit = json.loads(options.do)
        print(json.dumps(evaluated(Path(options.folder), precision, store, limit)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        store = make_material(folder, options.layers, options.hidden)
        stored = sum(path.stat().st_size for path in (folder / "base").glob("*.safetensors"))
        limit = int(options.share * 2 * stored)
        print(f"{stored / 2e9:.3f} B parameters, {2 * stored / 1e9:.2f} GB in fp32; limit {limit / 1e9:.2f} GB more")
        for precision in ("fp32", "bf16"):
            whole, limited = (in_process(folder, precision, store, most) for most in (0, limit))
            is_same = whole["found"] == limited["found"]
            told = f"whole {whole['seconds']:.1f} s, limited {limited['seconds']:.1f} s"
            print(f"{precision}: {told}, {'equal' if is_same else 'DIFFERENT'}", flush=True)


def in_process(folder: Path, precision: str, store: str, limit: int) -> Any:
    command = [sys.executable, str(HERE), "--folder", str(folder), "--do", json.dumps([precision, store, limit])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
