"""How near the data pipeline comes to the tokenizer's own rate, and how far it is ahead of the usual path.

    python benchmarks/data_pipeline.py gsm8k_train.jsonl [more.jsonl] [--megabytes 200] [--peers FOLDER]
                                             [--tokenizer unigram|llama]

Real records (Alpaca, or GSM8K's question and answer) are repeated up to a small and a large size. Every rate is a
slope between the two sizes, so start-up does not count:

raw       encode_batch_fast over the same rendered texts, one thread: tokens per CPU-second; with the ids read into
          Python, which everybody who uses them must do, and without. For tokenizers that are not byte-level
          (--tokenizer unigram, llama: SentencePiece's kinds, with marks for blanks): encode_batch
raw-2     the same in two processes at a time, as ours works: CPUs that share a core or its caches are slower together
ours      `prepare` on Ray Data, all of it (read, render, tokenize, mask, pack, write): tokens per CPU-second of all
          processes of the cluster, and per second of wall time
peer      datasets.map(num_proc=2) with the chat template and the tokenizer, then TRL's pack_dataset: wall time.
          Needs FOLDER with trl and datasets (make bench-data installs them into build/peers).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", RAY_USAGE_STATS_ENABLED="0")
MAX_TOKENS = 2048
HERE = Path(__file__)


def make_file(path: Path, sources: list[Path], megabytes: float) -> None:
    """Repeat the records of the sources up to a size, as instruction and output."""
    lines = []
    for source in sources:
        text = source.read_text("utf-8")
        records = json.loads(text) if text.lstrip().startswith("[") else map(json.loads, text.splitlines())
        for record in records:
            instruction = record.get("instruction", record.get("question"))
            extra = record.get("input")
            answer = record.get("output", record.get("answer"))
            whole = {"instruction": f"{instruction}\n{extra}" if extra else instruction, "output": answer}
            lines.append(json.dumps(whole, ensure_ascii=False) + "\n")
    block = "".join(lines).encode()
    with path.open("wb") as stream:
        while stream.tell() + len(block) <= megabytes * 1e6:
            stream.write(block)


def processes_below(pid: int) -> list[int]:
    """The process and all its descendants, and what was started since and belongs to nobody: forked Ray workers."""
    parents: dict[int, list[int]] = {}
    starts: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
            starts[int(entry.name)] = int(fields[19])
    began = starts.get(pid, 0)
    found, waiting = [], [pid, *(one for one in parents.get(1, []) if one != pid and starts[one] > began)]
    while waiting:
        found.append(waiting.pop())
        waiting += parents.get(found[-1], [])
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, its descendants and those of them that have ended."""
    total = 0
    for one in processes_below(pid):
        try:
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += sum(map(int, fields[11:15]))
    return total / os.sysconf("SC_CLK_TCK")


def ours(path: str, tokenizer: str, storage: str) -> dict[str, float]:
    """One prepare on a cluster of 2 CPUs, alone in its process."""
    import ray

    from raysft.data.prepare.prepare import prepare
    from raysft.recipe.load import parse_recipe

    recipe = parse_recipe(
        {
            "name": "bench",
            "storage": storage,
            "model": {"source": "random", "config": {"model_type": "llama"}, "tokenizer": tokenizer},
            "data": {"train": path, "template": "chatml", "max_tokens": MAX_TOKENS},
        }
    )
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    started, before = time.perf_counter(), cpu_seconds(os.getpid())
    prepared = prepare(recipe)
    wall, cpu = time.perf_counter() - started, cpu_seconds(os.getpid()) - before
    counts = prepared.train_manifest["counts"]
    ray.shutdown()
    return {"wall_s": wall, "cpu_s": cpu, "tokens": counts["tokens"], "rows": counts["rows"], "fill": counts["fill"]}


def raw(path: str, tokenizer: str, storage: str) -> dict[str, float]:
    """The bare tokenizer over the texts that prepare renders, in batches of 256, one thread."""
    from tokenizers import decoders
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(tokenizer)
    backend = loaded.backend_tokenizer
    run = backend.encode_batch_fast if isinstance(backend.decoder, decoders.ByteLevel) else backend.encode_batch
    found = {"wall_s": 0.0, "cpu_s": 0.0, "bare_cpu_s": 0.0, "tokens": 0}
    with open(path, encoding="utf-8") as stream:
        while lines := stream.readlines(1 << 20):
            texts = [_rendered(json.loads(line)) for line in lines]
            for start in range(0, len(texts), 256):
                started, before = time.perf_counter(), time.process_time()
                encodings = run(texts[start : start + 256], add_special_tokens=False)
                bare = time.process_time()
                found["tokens"] += sum(len(encoding.ids) for encoding in encodings)
                del encodings
                found["cpu_s"] += time.process_time() - before
                found["bare_cpu_s"] += bare - before
                found["wall_s"] += time.perf_counter() - started
    return found


def _rendered(record: dict[str, str]) -> str:
    return (
        f"<|im_start|>user\n{record['instruction']}<|im_end|>\n<|im_start|>assistant\n{record['output']}<|im_end|>\n"
    )


def peer(path: str, tokenizer: str, storage: str) -> dict[str, float]:
    """The usual path: datasets.map with the chat template, then TRL's best-fit-decreasing packing."""
    import datasets
    from transformers import AutoTokenizer
    from trl import pack_dataset

    datasets.disable_progress_bars()
    loaded = AutoTokenizer.from_pretrained(tokenizer)
    started = time.perf_counter()
    data = datasets.load_dataset("json", data_files=path, split="train", cache_dir=storage)

    def tokenize(record: dict[str, str]) -> dict[str, Any]:
        messages = [
            {"role": "user", "content": record["instruction"]},
            {"role": "assistant", "content": record["output"]},
        ]
        encoded = loaded.apply_chat_template(
            messages, return_dict=True, return_assistant_tokens_mask=True, tokenize=True
        )
        return {"input_ids": encoded["input_ids"], "assistant_masks": encoded["assistant_masks"]}

    data = data.map(tokenize, num_proc=2, remove_columns=data.column_names)
    packed = pack_dataset(data, MAX_TOKENS, "bfd", map_kwargs={"num_proc": 2})
    wall = time.perf_counter() - started
    tokens = sum(len(ids) for batch in packed.iter(1000) for ids in batch["input_ids"])
    return {"wall_s": wall, "rows": len(packed), "tokens": tokens}


def measure(what: str, path: Path, tokenizer: Path, peers: str | None) -> dict[str, float]:
    """One measurement in a process of its own; raw-2: two at a time, their sums."""
    if what == "raw-2":
        with ThreadPoolExecutor(2) as threads:
            one, two = threads.map(lambda _: measure("raw", path, tokenizer, peers), range(2))
        return {key: one[key] + two[key] for key in one}
    storage = path.parent / f"storage-{what}"
    environment = dict(os.environ)
    if what == "peer" and peers:
        environment["PYTHONPATH"] = os.pathsep.join([peers, environment.get("PYTHONPATH", "")])
    environment["HF_HOME"] = str(path.parent / "hf")
    command = [sys.executable, str(HERE), "--one", what, str(path), str(tokenizer), str(storage)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=3000, check=False)
    shutil.rmtree(storage, ignore_errors=True)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def train_marked(kind: str, path: str, out: str) -> None:
    """A tokenizer with marks for blanks: Unigram as T5 and XLM-R have, or BPE as Llama 2 and Mistral."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.Unigram() if kind == "unigram" else models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Metaspace(prepend_scheme="first")
    common = {"vocab_size": 16_000, "special_tokens": ["<unk>", "<|im_start|>", "<|im_end|>"], "show_progress": False}
    if kind == "unigram":
        trainer = trainers.UnigramTrainer(unk_token="<unk>", **common)
    else:
        trainer = trainers.BpeTrainer(**common)
    with open(path, encoding="utf-8") as stream:
        backend.train_from_iterator([_rendered(json.loads(line)) for line in stream][:20_000], trainer)
    if kind == "llama":  # trained on words, as SentencePiece does; then the model sees the whole text
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", unk_token="<unk>", extra_special_tokens=["<|im_start|>"]
    ).save_pretrained(out)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", nargs="+", type=Path)
    parser.add_argument("--megabytes", type=float, default=200.0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("build/bench-data"))
    parser.add_argument("--peers")
    parser.add_argument("--tokenizer", choices=["byte-level", "unigram", "llama"], default="byte-level")
    options = parser.parse_args()
    from raysft.data.text.tokenizer import train_tokenizer

    folder = options.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {"small": options.megabytes / 5, "large": options.megabytes}
    for name, megabytes in sizes.items():
        make_file(folder / f"{name}.jsonl", options.data, megabytes)
    tokenizer = folder / "tokenizer"
    if not tokenizer.exists():
        make_file(folder / "some.jsonl", options.data, sum(p.stat().st_size for p in options.data) / 1e6 * 1.5)
        files = [str(folder / "some.jsonl")]
        if options.tokenizer == "byte-level":
            train_tokenizer(files, columns={}, vocab_size=16_000, template="chatml", out=str(tokenizer))
        else:
            train_marked(options.tokenizer, files[0], str(tokenizer))
    kinds = ["raw", "raw-2", "ours", *(["peer"] if options.peers else [])]
    for number in range(options.rounds):
        slopes: dict[str, dict[str, float]] = {}
        for kind in kinds:
            small, large = (measure(kind, folder / f"{name}.jsonl", tokenizer, options.peers) for name in sizes)
            slopes[kind] = {key: large[key] - small[key] for key in large if key in small and key != "fill"}
            print(kind, json.dumps({"small": small, "large": large}), flush=True)
        rate = {kind: slope["tokens"] / slope["wall_s"] for kind, slope in slopes.items()}
        per_cpu = {kind: slopes[kind]["tokens"] / slopes[kind]["cpu_s"] for kind in ("raw", "raw-2", "ours")}
        bare = slopes["raw"]["tokens"] / slopes["raw"]["bare_cpu_s"]
        told = ", ".join(f"{kind} {value:,.0f}" for kind, value in per_cpu.items())
        print(f"round {number + 1}, tokens per CPU-second: {told}; ids not read {bare:,.0f}")
        for kind in ("raw", "raw-2"):
            print(f"  ours / {kind}: {per_cpu['ours'] / per_cpu[kind]:.3f}", flush=True)
        if "peer" in rate:
            print(f"  wall: ours {rate['ours']:,.0f} tokens/s, peer {rate['peer']:,.0f}")
            print(f"  ours / peer: {rate['ours'] / rate['peer']:.2f}", flush=True)
    shutil.rmtree(folder)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps({"raw": raw, "ours": ours, "peer": peer}[sys.argv[2]](*sys.argv[3:6])))
    else:
        main()
