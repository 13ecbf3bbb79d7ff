"""Names of GPUs as NVML has them, as Ray makes labels of them, and as people write them."""

from __future__ import annotations

import pytest
from ray._private.accelerators.nvidia_gpu import NvidiaGPUAcceleratorManager

from raysft.planner.devices import find_device
from raysft.recipe.gpus import GPUS, named, of_product

NVML = {
    "NVIDIA H100 80GB HBM3": "H100-80G",
    "NVIDIA H100 PCIe": "H100PCIE-80G",
    "NVIDIA H100 NVL": "H100NVL-94G",
    "NVIDIA H200": "H200-141G",
    "NVIDIA H800": "H800-80G",
    "NVIDIA H20": "H20-96G",
    "NVIDIA GH200 480GB": "GH200-96G",
    "NVIDIA GH200 144G HBM3e": "GH200-144G",
    "NVIDIA B200": "B200-180G",
    "NVIDIA GB200": "GB200-186G",
    "NVIDIA B300 SXM6 AC": "B300-288G",
    "NVIDIA GB300": "GB300-288G",
    "NVIDIA A100-SXM4-80GB": "A100-80G",
    "NVIDIA A100-PCIE-40GB": "A100-80G",  # its rate is the same
    "NVIDIA A800-SXM4-80GB": "A800-80G",
    "NVIDIA A30": "A30-24G",
    "NVIDIA A40": "A40-48G",
    "NVIDIA L40S": "L40S-48G",
    "NVIDIA L40": "L40-48G",
    "NVIDIA A10G": "A10G-24G",
    "NVIDIA A10": "A10-24G",
    "NVIDIA L4": "L4-24G",
    "Tesla V100-SXM2-32GB": "V100-32G",
    "Tesla T4": "T4-16G",
    "NVIDIA RTX PRO 6000 Blackwell Server Edition": "RTX-PRO-6000-96G",
    "NVIDIA RTX 6000 Ada Generation": "RTX-6000-48G",
    "NVIDIA RTX A6000": "RTX-A6000-48G",
    "NVIDIA GeForce RTX 5090": "RTX5090-32G",
    "NVIDIA GeForce RTX 4090": "RTX4090-24G",
    "NVIDIA GeForce RTX 3090": "RTX3090-24G",
}
"""{name of a card: the kind that it is}."""


@pytest.mark.parametrize(("card", "kind"), NVML.items())
def test_a_card_is_known_by_its_name_and_by_rays_label(card: str, kind: str) -> None:
    found = of_product(card)
    assert found is not None
    assert found.name == kind
    label = NvidiaGPUAcceleratorManager._gpu_name_to_accelerator_type(card)
    assert label is not None
    device = find_device(label, largest=True)  # Ray says no more than the product
    assert device.name.rpartition("-")[0].startswith(found.short.removesuffix("PCIE").removesuffix("NVL"))


@pytest.mark.parametrize("card", ["NVIDIA L400", "NVIDIA XL4", "AMD Instinct MI300X", "NVIDIA H1000", "NVIDIA A1000"])
def test_a_card_that_is_like_another_is_unknown(card: str) -> None:
    assert of_product(card) is None


def test_every_kind_is_found_by_what_people_write() -> None:
    assert len({gpu.name for gpu in GPUS}) == len({gpu.product for gpu in GPUS}) == len(GPUS)
    for gpu in GPUS:
        assert named(gpu.name.lower()) == [gpu]
        assert gpu in named(gpu.short)
    assert [gpu.name for gpu in named("A100")] == ["A100-80G", "A100-40G"]
    assert named("RTX 4090") == named("GeForce-RTX-4090") == named("rtx4090-24g")
    assert named("H1") == named("") == []


def test_figures_are_of_one_kind_of_thing() -> None:
    for gpu in GPUS:
        size = float(gpu.name.rpartition("-")[2].removesuffix("G"))
        assert 0.85 * size / 1.0737 < gpu.memory_gib <= 1.0 * size, gpu.name
        assert gpu.memory_gb_s > gpu.node_gb_s > gpu.network_gb_s
