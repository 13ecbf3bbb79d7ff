"""GPUs by their names: memory, peak rates, links. One table, read by the planner and by what reports the MFU. Pure.

Figures are of NVIDIA's data sheets: dense bf16 without sparsity (on cards that have none, that of fp32); NVLink one
way (half of the sheet's figure) or PCIe. Memory is what a process can allocate, the sheet's size less what driver and
context take. The network is an assumption: 400 Gbit/s for each GPU of a kind that is sold in nodes for training
today, 200 for those of 2020, 25 for the others.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU."""

    name: str
    """As a cluster is written: the product without spaces, and its memory in GB: `H100-80G`."""
    product: str
    """In the names that NVML, and so torch, have for it: `NVIDIA H100 80GB HBM3`."""
    memory_gib: float
    bf16_tflops: float
    fp32_tflops: float
    """By ordinary cores: torch multiplies fp32 in TF32 only where it is told to, and raysft does not."""
    memory_gb_s: float
    node_gb_s: float
    """To other GPUs of the node, one way."""
    network_gb_s: float
    """To other nodes."""

    @property
    def short(self) -> str:
        """`H100`: the name without its memory."""
        return self.name.rpartition("-")[0]


GPUS = (
    Gpu("H100-80G", "H100", 79.1, 989.4, 67, 3350, 450, 50),
    Gpu("H100PCIE-80G", "H100 PCIe", 79.1, 756, 51, 2000, 300, 3.1),
    Gpu("H100NVL-94G", "H100 NVL", 93.1, 835, 60, 3900, 300, 3.1),
    Gpu("H200-141G", "H200", 139.8, 989.4, 67, 4800, 450, 50),
    Gpu("H800-80G", "H800", 79.1, 989.4, 67, 3350, 200, 50),
    Gpu("H20-96G", "H20", 95.1, 148, 44, 4000, 450, 50),
    Gpu("GH200-96G", "GH200", 94.5, 989.4, 67, 4000, 450, 50),
    Gpu("GH200-144G", "GH200 144G", 140.0, 989.4, 67, 4900, 450, 50),
    Gpu("B200-180G", "B200", 178.0, 2250, 75, 7700, 900, 50),
    Gpu("GB200-186G", "GB200", 184.0, 2500, 80, 8000, 900, 50),
    Gpu("B300-288G", "B300", 267.0, 2250, 75, 8000, 900, 50),
    Gpu("GB300-288G", "GB300", 267.0, 2500, 80, 8000, 900, 50),
    Gpu("A100-80G", "A100", 79.1, 312, 19.5, 2039, 300, 25),
    Gpu("A100-40G", "A100 40G", 39.4, 312, 19.5, 1555, 300, 25),
    Gpu("A800-80G", "A800", 79.1, 312, 19.5, 2039, 200, 25),
    Gpu("A30-24G", "A30", 23.5, 165, 10.3, 933, 100, 3.1),
    Gpu("A40-48G", "A40", 44.4, 149.7, 37.4, 696, 56, 3.1),
    Gpu("L40S-48G", "L40S", 44.4, 362, 91.6, 864, 32, 3.1),
    Gpu("L40-48G", "L40", 44.4, 181, 90.5, 864, 32, 3.1),
    Gpu("A10G-24G", "A10G", 22.0, 70, 31.5, 600, 32, 3.1),
    Gpu("A10-24G", "A10", 22.0, 125, 31.2, 600, 32, 3.1),
    Gpu("L4-24G", "L4", 22.0, 121, 30.3, 300, 32, 3.1),
    Gpu("V100-32G", "V100", 31.7, 15.7, 15.7, 900, 150, 3.1),
    Gpu("V100-16G", "V100 16G", 15.8, 15.7, 15.7, 900, 150, 3.1),
    Gpu("T4-16G", "T4", 14.6, 8.1, 8.1, 320, 16, 3.1),
    Gpu("RTX-PRO-6000-96G", "RTX PRO 6000", 94.9, 503, 125, 1597, 64, 3.1),
    Gpu("RTX-6000-48G", "RTX 6000 Ada", 47.4, 364, 91.1, 960, 32, 3.1),
    Gpu("RTX-A6000-48G", "RTX A6000", 47.4, 155, 38.7, 768, 56, 3.1),
    Gpu("RTX5090-32G", "RTX 5090", 31.4, 209.5, 104.8, 1792, 64, 3.1),
    Gpu("RTX4090-24G", "RTX 4090", 23.5, 165, 82.6, 1008, 32, 3.1),
    Gpu("RTX3090-24G", "RTX 3090", 23.6, 71, 35.6, 936, 56, 3.1),
)
"""name; product; GiB that torch reports; TFLOP/s in bf16, in fp32; GB/s of memory, to GPUs of the node, of others."""


def named(text: str) -> list[Gpu]:
    """The kinds that a name fits, of whoever wrote it: `H100-80G`, `h100`, or Ray's label (`GeForce-RTX-4090`)."""
    wanted = _letters(text)
    return [gpu for gpu in GPUS if gpu.name.upper() == text.upper()] or [
        gpu for gpu in GPUS if wanted in (_letters(gpu.short), _letters(gpu.product))
    ]


def of_product(name: str) -> Gpu | None:
    """The kind in the name that NVML has for a card; None: unknown. `NVIDIA L40` is no L4."""
    found = [
        gpu for gpu in GPUS if re.search(rf"(?<![\w-]){re.escape(gpu.product)}(?![A-Za-z0-9])", name, re.IGNORECASE)
    ]
    return max(found, key=lambda gpu: len(gpu.product), default=None)


def _letters(name: str) -> str:
    """Without what one writes and another does not."""
    return re.sub(r"NVIDIA|GEFORCE|[\s_-]", "", name.upper())
