"""Time and memory of the loss: plain, torch's chunked operator, checkpointed chunks, raysft; and of a whole step
by vocabulary.

    python benchmarks/loss_memory.py [--repeats 5] [--threads 1] [--dtype float32] [--hidden 512]

First part: 152k vocabulary, 1,024 tokens, forward and backward, all labels and half of them. Each figure is a process
of its own, in turn A B C D A B C D: median (lowest - highest) of wall and CPU seconds, and the growth of the peak
resident set over inputs and weights. Second part: bytes of tensors at the peak of forward and backward, without
parameters, gradients and optimizer state, of a Llama with 16k and with 128k tokens (goal: within 1.2x).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear_cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary
from transformers import AutoConfig, AutoModelForCausalLM

from raysft.model.fast.loss import IGNORE, OutputHead, hidden_states, output_head, weighted_nll
from raysft.model.fast.loss_head import LogitShape, LossHead
from raysft.model.fast.start_check import use_fast_paths

VOCAB, TOKENS = 151_936, 1024
VARIANTS = ("plain", "torch-256", "checkpointed-256", "raysft")


def loss_of(variant: str, head: LossHead, hidden: Tensor, labels: Tensor) -> Tensor:
    """Sum over the labels that are not IGNORE. hidden [1, T, D], labels [1, T]."""
    if variant == "plain":
        return cross_entropy(head(hidden[0]).float(), labels[0], reduction="sum", ignore_index=IGNORE)
    if variant == "torch-256":
        options = nn.LinearCrossEntropyOptions(batch_chunk_size=256)
        return linear_cross_entropy(hidden[0], head.weight, labels[0], reduction="sum", options=options)
    module = head if variant == "raysft" else nn.Linear(1, 1, device="meta", bias=False)
    if variant != "raysft":
        module.weight = head.weight
    return weighted_nll(hidden, OutputHead(module, LogitShape()), labels, torch.ones(labels.shape))


def peak_bytes() -> int:
    """Peak resident set of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def measure(variant: str, masked: float, options: argparse.Namespace) -> dict[str, float]:
    """One forward and backward in this process, after a tiny one."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    dtype = getattr(torch, options.dtype)
    head = LossHead(options.hidden, VOCAB, bias=False, dtype=dtype)
    hidden = torch.randn(1, TOKENS, options.hidden).to(dtype)
    labels = torch.randint(0, VOCAB, (1, TOKENS))
    labels[0, torch.rand(TOKENS) < masked] = IGNORE
    small = LossHead(options.hidden, 64, bias=False, dtype=dtype)
    loss_of(variant, small, hidden[:, :8].clone().requires_grad_(), labels[:, :8] % 64).backward()
    hidden.requires_grad_()
    before, wall, cpu = peak_bytes(), time.perf_counter(), time.process_time()
    loss = loss_of(variant, head, hidden, labels)
    loss.backward()
    return {
        "wall_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
        "peak_bytes": peak_bytes() - before,
        "loss": float(loss.detach()),
        "weight_norm": float(head.weight.grad.float().norm()),
        "hidden_norm": float(hidden.grad.float().norm()),
    }


def compare(options: argparse.Namespace) -> None:
    """First part."""
    cells = [(masked, variant) for masked in (0.0, 0.5) for variant in VARIANTS]
    found: dict[tuple[float, str], list[dict[str, float]]] = {cell: [] for cell in cells}
    for _ in range(options.repeats):
        for masked, variant in cells:
            command = [sys.executable, __file__, "--cell", variant, str(masked), *sys.argv[1:]]
            answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found[masked, variant].append(json.loads(answer.strip().split("\n")[-1]))
    for (masked, variant), answers in found.items():
        times = {key: sorted(a[key] for a in answers) for key in ("wall_s", "cpu_s")}
        spread = "  ".join(f"{k} {statistics.median(v):5.2f} ({v[0]:.2f}-{v[-1]:.2f})" for k, v in times.items())
        plain = [a["cpu_s"] / p["cpu_s"] for a, p in zip(answers, found[masked, "plain"], strict=True)]
        peak = statistics.median(a["peak_bytes"] for a in answers) / 2**30
        same = " ".join(f"{answers[0][key]:.6g}" for key in ("loss", "weight_norm", "hidden_norm"))
        print(
            f"{variant:16} masked {masked:3.0%}  {spread}  CPU of plain's {statistics.median(plain):.2f}  "
            f"peak {peak:.2f} GiB  loss, norms {same}",
            flush=True,
        )


class Live(TorchDispatchMode):
    """Largest sum of bytes of the living tensors that operations made and that are no gradients.

    A tensor with the shape of a matrix among the parameters counts as a gradient.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._known = WeakIdKeyDictionary()
        for tensor in (*module.parameters(), *module.buffers()):
            self._known[tensor.untyped_storage()] = None
        self._shapes = {tuple(p.shape) for p in module.parameters() if p.ndim > 1}
        self._bytes, self.peak = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in (t for t in tree_leaves(result) if isinstance(t, Tensor)):
            storage = tensor.untyped_storage()
            if storage in self._known:
                continue
            self._known[storage] = None  # a gradient's too: views of it have other shapes
            if tuple(tensor.shape) not in self._shapes:
                self._change(storage.nbytes())
                weakref.finalize(storage, self._change, -storage.nbytes())
        return result

    def _change(self, size: int) -> None:
        self._bytes += size
        self.peak = max(self.peak, self._bytes)


def step_bytes(vocab_size: int, *, tied: bool, full_logits: bool) -> int:
    """Bytes of tensors at the peak of a forward and backward, without parameters and gradients."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama",
        vocab_size=vocab_size,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        tie_word_embeddings=tied,
    )
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    model.config.use_cache = False
    if not full_logits:
        use_fast_paths(model, vocab_size)
    ids = torch.randint(0, vocab_size, (1, TOKENS))
    positions = (torch.arange(TOKENS) % 256)[None]
    labels = ids.roll(-1, 1)
    labels[:, 255::256] = IGNORE
    with Live(model) as live:
        if full_logits:
            logits = model(input_ids=ids, position_ids=positions).logits
            loss = cross_entropy(logits[0], labels[0], reduction="sum", ignore_index=IGNORE)
            del logits
        else:
            hidden = hidden_states(model, ids, positions)
            loss = weighted_nll(hidden, output_head(model), labels, torch.ones(labels.shape))
        (loss / TOKENS).backward()
    return live.peak


def by_vocabulary() -> None:
    """Second part."""
    for tied in (False, True):
        for full_logits in (False, True):
            small, large = (step_bytes(v, tied=tied, full_logits=full_logits) for v in (16_384, 131_072))
            name = "full logits" if full_logits else "raysft"
            print(
                f"{name:12} {'tied' if tied else 'untied':7} tensors at the peak, no parameters or gradients: "
                f"16k {small / 2**20:.0f} MiB, 128k {large / 2**20:.0f} MiB: {large / small:.2f}x"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--part", choices=("both", "loss", "step"), default="both")
    parser.add_argument("--cell", nargs=2, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        print(json.dumps(measure(options.cell[0], float(options.cell[1]), options)))
        return
    print(f"torch {torch.__version__}, {options.threads} thread(s), load {os.getloadavg()}")
    if options.part != "step":
        compare(options)
    if options.part != "loss":
        by_vocabulary()
    print(f"load {os.getloadavg()}")


if __name__ == "__main__":
    main()
