"""Attention of packed rows: segments apart against transformers' sdpa with a block-diagonal mask.

    python benchmarks/segment_attention.py [--repeats 7] [--threads 1]

One layer, forward and backward, 6 query heads, 2 key heads of 64, fp32; the mask is made beforehand. In turn
A B C A B C in one process: lowest and median CPU milliseconds. `causal` is sdpa that sees all earlier tokens of the
row: wrong, but what attention costs without a mask.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from raysft.model.fast.attention import segment_attention

ROWS = {
    "1,024: 5 segments of about 200": [200, 210, 190, 220, 204],
    "2,048: 10 segments of about 200": [200, 190, 210, 205, 195, 220, 180, 230, 170, 248],
    "1,024: one segment": [1024],
    "1,024: 16 segments of 64": [64] * 16,
    "1,024: 103 segments of 10": [10] * 102 + [4],
}


class Layer(nn.Module):
    """What transformers' attention functions read of an attention module."""

    num_key_value_groups = 3
    is_causal = True


def forward_backward(kind: str, lengths: list[int], mask: Tensor) -> float:
    """CPU seconds."""
    tokens = sum(lengths)
    query, key, value = (torch.randn(1, tokens, h, 64).transpose(1, 2).requires_grad_() for h in (6, 2, 2))
    borders = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0).to(torch.int32)
    start = time.process_time()
    if kind == "segments":
        answer, _ = segment_attention(Layer(), query, key, value, None, cu_seq_lens_q=borders)
    else:
        answer, _ = sdpa_attention_forward(Layer(), query, key, value, mask if kind == "masked" else None)
    answer.sum().backward()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} thread(s), load {os.getloadavg()}")
    for name, lengths in ROWS.items():
        segment = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
        mask = (segment[:, None] == segment[None]).tril()[None, None]
        found: dict[str, list[float]] = {"masked": [], "causal": [], "segments": []}
        for _ in range(options.repeats + 1):
            for kind, times in found.items():
                times.append(forward_backward(kind, lengths, mask) * 1000)
        answers = [f"{kind} {min(t[1:]):.1f} ({statistics.median(t[1:]):.1f})" for kind, t in found.items()]
        ratio = statistics.median(found["masked"][1:]) / statistics.median(found["segments"][1:])
        print(f"{name:32} ms: {', '.join(answers)}; masked / segments {ratio:.1f}x", flush=True)
    print(f"load {os.getloadavg()}")


if __name__ == "__main__":
    main()
