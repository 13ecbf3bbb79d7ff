"""Memory of an export and of what evaluation loads, over the size of the whole model.

    python benchmarks/export_memory.py [--layers 24] [--hidden 1024] [--folder DIR] [--only TEXT]

A Llama of 0.4B parameters in bf16 files; what was trained lies in a file of its own in fp32 and is read tensor by
tensor. Each figure is a process: the highest resident set after a tiny model has gone the same way, so that all is
imported, over 4 bytes a parameter. stream: the export, in a process that may have no more than half of the model
besides what it has then (RLIMIT_DATA). whole: the model made whole in fp32, merged and saved by
save_pretrained. loaded: the model as it is evaluated. planned: what `raysft plan` says of them. Every tensor of both
exports is compared, and so are the logits of what fp32 exports give when they are loaded.
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
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parent))
sys.path.insert(0, str(HERE.parents[1] / "tests" / "support"))
os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", DS_ACCELERATOR="cpu")

from load_memory import VOCABULARY, make_files, measured  # noqa: E402

METHODS: dict[str, dict[str, Any]] = {
    "full": {"kind": "full"},
    "LoRA": {"kind": "lora", "rank": 16},
    "DoRA": {"kind": "dora", "rank": 16},
    "AdaLoRA": {"kind": "adalora", "rank": 16, "target_rank": 8},
    "IA3": {"kind": "ia3"},
}
ROWS = [(f"{name}, {precision}", name, precision) for precision in ("fp32", "bf16") for name in ("full", "LoRA")] + [
    (f"{name}, fp32", name, "fp32") for name in ("DoRA", "AdaLoRA", "IA3")
]
WAYS = ("stream", "whole", "loaded")


def trained_of(folder: Path, method: str) -> Path:
    return folder / f"trained-{method}.safetensors"


def recipe_of(folder: Path, method: str, precision: str) -> Any:
    from fakes import make_recipe

    return make_recipe(
        model={"source": str(folder / "base"), "config": None, "tokenizer": None},
        method=METHODS[method],
        train={"precision": precision, "rows_per_step": 4},
    )


def make_trained(folder: Path, method: str) -> None:
    """What a method trains of the model, with numbers of its own, in one file."""
    import torch
    from safetensors.torch import save_file

    from raysft.model.load import load_model
    from raysft.model.methods import apply_method

    recipe = recipe_of(folder, method, "fp32")
    module = apply_method(load_model(recipe, vocab_size=VOCABULARY), recipe)
    torch.manual_seed(0)
    weights = {n: p.detach() + 0.02 * torch.randn_like(p) for n, p in module.named_parameters() if p.requires_grad}
    save_file(weights, trained_of(folder, method))


class Stored(Mapping[str, Any]):
    """Tensors of a file, each read when it is asked for."""

    def __init__(self, path: Path) -> None:
        from raysft.model.stored import stored_tensors

        self._tensors: Any = stored_tensors(str(path))

    def __getitem__(self, name: str) -> Any:
        import torch

        value = torch.empty(self._tensors[name].shape)
        self._tensors[name].read(value.view(-1))
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def one_way(folder: Path, row: int, way: str) -> dict[str, float]:
    """Figures of this process."""
    from raysft.model.shape import read_shape
    from raysft.planner.tasks import evaluation_memory, export_memory

    _, method, precision = ROWS[row]
    recipe = recipe_of(folder, method, precision)
    shape = read_shape(recipe)
    go(folder / "tiny", method, precision, way, folder / f"tiny-{way}-{row}")
    if way == "stream":
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        limit = int(status["VmData"].split()[0]) * 1024 + 2 * shape.num_parameters
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    begin, start = measured(), time.monotonic()
    go(folder, method, precision, way, folder / f"{way}-{row}")
    seconds, peak = time.monotonic() - start, measured()["peak"] - begin["resident"]
    planned = {"stream": export_memory(recipe, shape), "loaded": evaluation_memory(recipe, shape, is_gpu=False).load}
    return {"seconds": seconds, "peak": peak, "planned": planned.get(way, 0)}


def go(folder: Path, method: str, precision: str, way: str, out: Path) -> None:
    """Export or load the model of a folder."""
    from fakes import make_tokenizer

    from raysft.model.card import CardFacts
    from raysft.model.export import export_run, write_parts
    from raysft.model.trained import load_trained, rebuild

    recipe, tokenizer, weights = (
        recipe_of(folder, method, precision),
        make_tokenizer(),
        Stored(trained_of(folder, method)),
    )
    facts = CardFacts(1, 1, 1, 1, dict.fromkeys(("data", "mathematics", "execution"), "f" * 16), {}, {})
    if way == "stream":
        export_run(recipe, weights, tokenizer, out=str(out), card=facts)
    elif way == "loaded":
        load_trained(recipe, weights, vocab_size=VOCABULARY)
    else:
        out.mkdir()
        write_parts(recipe, rebuild(recipe, weights, vocab_size=VOCABULARY), tokenizer, facts, out, ())


def differences(folder: Path, row: int) -> str:
    """`none`, or what is another in the two exports."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    found = []
    for way in ("stream", "whole"):
        tensors: dict[str, Any] = {}
        for path in sorted((folder / f"{way}-{row}" / "merged").glob("*.safetensors")):
            tensors |= load_file(path)
        found.append(tensors)
    ours, theirs = found
    if ours.keys() != theirs.keys():
        return "names"
    if not all(ours[n].dtype == theirs[n].dtype and torch.equal(ours[n], theirs[n]) for n in ours):
        return "tensors"
    del found, ours, theirs
    if ROWS[row][2] == "fp32":
        ids, logits = torch.arange(64).reshape(2, 32), []
        for way in ("stream", "whole"):
            model = AutoModelForCausalLM.from_pretrained(folder / f"{way}-{row}" / "merged")
            with torch.no_grad():
                logits.append(model(input_ids=ids).logits)
            del model
        if not torch.equal(*logits):
            return "logits"
    return "none"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--folder", help="where the files are put; a temporary one without it")
    parser.add_argument("--only", default="", help="rows whose name has this in it")
    parser.add_argument("--do", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.do is not None:
        row, way = options.do.split(":")
        folder = Path(options.folder)
        if way == "make":
            for one in (folder, folder / "tiny"):
                make_trained(one, ROWS[int(row)][1])
        elif way == "compare":
            print(json.dumps(differences(folder, int(row))))
        else:
            print(json.dumps(one_way(folder, int(row), way)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        make_files(folder / "base", options.layers, options.hidden)
        make_files(folder / "tiny/base", 1, 64)
        stored = sum(path.stat().st_size for path in (folder / "base").glob("*.safetensors"))
        print(f"{stored / 2e9:.3f} B parameters, {2 * stored / 1e9:.2f} GB in fp32; peaks over that, seconds")
        heads = "".join(f"{head:>8}" for head in ("stream", "planned", "whole", "loaded", "planned"))
        print(f"{'':<16}{heads}{'stream s':>10}{'whole s':>9}  differs", flush=True)
        for number, (row, method, _) in enumerate(ROWS):
            if options.only in row:
                if not trained_of(folder, method).exists():
                    in_process(folder, number, "make")
                found = {way: in_process(folder, number, way) for way in WAYS}
                peaks = "".join(
                    f"{found[way][what] / (2 * stored):>8.2f}"
                    for way, what in (
                        ("stream", "peak"),
                        ("stream", "planned"),
                        ("whole", "peak"),
                        ("loaded", "peak"),
                        ("loaded", "planned"),
                    )
                )
                seconds = f"{found['stream']['seconds']:>10.1f}{found['whole']['seconds']:>9.1f}"
                print(f"{row:<16}{peaks}{seconds}  {in_process(folder, number, 'compare')}", flush=True)
                for way in WAYS:
                    subprocess.run(["rm", "-rf", str(folder / f"{way}-{number}")], check=True)


def in_process(folder: Path, row: int, way: str) -> Any:
    """What a process of its own says."""
    command = [sys.executable, str(HERE), "--folder", str(folder), "--do", f"{row}:{way}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1]) if way != "make" else None


if __name__ == "__main__":
    main()
