"""The yardstick of the MFU."""

from __future__ import annotations

import time

import pytest
import torch

from raysft.train.watch import peak


def test_a_measured_peak_is_that_of_a_matrix_product_of_our_own() -> None:
    found, basis = peak.peak_flops(torch.device("cpu"), torch.float32)
    matrix, best = torch.ones(512, 512), float("inf")
    for _ in range(20):
        started = time.perf_counter()
        matrix @ matrix
        best = min(best, time.perf_counter() - started)
    assert 0.1 < found / (2 * 512**3 / best) < 10  # another size, on a machine that others use
    assert "measured" in basis
    assert "float32" in basis


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989.4),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("NVIDIA L40", 181),
        ("NVIDIA GB200", 2500),
        ("NVIDIA GH200 480GB", 989.4),
        ("NVIDIA A10G", 70),
    ],
)
def test_a_known_gpu_counts_by_its_data_sheet(name: str, tflops: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    found, basis = peak.peak_flops(torch.device("cuda"), torch.bfloat16)
    assert found == tflops * 1e12
    assert "data sheet" in basis
