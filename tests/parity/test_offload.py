"""Optimizer state and parameters in host memory: the same curve, and the weights of a bare loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from bench import TOLERANCE, Bench, cells, furthest
from material import CONFIG, make_samples
from reference import fresh_model, run_reference, tokens_and_targets
from safetensors.torch import load_file
from test_sequence import follows

OFFLOAD: dict[str, Any] = {"parallel__offload": "cpu"}


@pytest.mark.parametrize("workers", cells(1, 2, often=(2,)))
@pytest.mark.parametrize("zero", cells(1, 2, 3, often=(2, 3)))
def test_norms_and_final_weights_are_those_of_a_bare_loop(
    bench: Bench, tmp_path: Path, zero: int, workers: int
) -> None:
    """Eight (four) micro-steps a step: DeepSpeed once dropped the gradients of all but the first."""
    samples = [tokens_and_targets(bench.tokenizer, q, a) for q, a in make_samples()]
    model = fresh_model(CONFIG, len(bench.tokenizer), seed=0)
    losses, norms = run_reference(
        model, samples, bench.base["samples"], learning_rate=3e-3, weight_decay=0.1, max_grad_norm=1.0
    )
    path = tmp_path / "weights.safetensors"
    results = bench.cell(workers, parallel__zero=zero, weights_to=str(path), **OFFLOAD)
    follows(results, bench.base)
    assert furthest(results[0]["losses"], losses) < TOLERANCE
    assert furthest(results[0]["norms"], norms) < TOLERANCE
    found = load_file(path)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[f"weight:{name}"], parameter.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("zero", "precision"),
    cells((1, "bf16"), (2, "fp32"), (2, "bf16"), (3, "fp32"), (3, "bf16"), often=((2, "bf16"),)),
)
def test_resumes_bit_identically(bench: Bench, tmp_path: Path, zero: int, precision: str) -> None:
    cell = OFFLOAD | {"parallel__zero": zero, "train__precision": precision, "train__micro_batch_rows": 2}
    whole = bench.cell(2, until=5, **cell)[0]
    first = bench.cell(2, until=3, save=True, run=str(tmp_path), **cell)[0]
    second = bench.cell(2, until=5, run=str(tmp_path), **cell)[0]
    assert first["losses"] + second["losses"] == whole["losses"]
    assert second["weights"] == whole["weights"]
    kept = bench.cell(2, until=5, **(cell | {"parallel__offload": "none"}))[0]
    print(furthest(whole["losses"], kept["losses"]), furthest(whole["norms"], kept["norms"]))
    assert furthest(whole["losses"], bench.base["losses"][:5]) < 5e-3


def test_a_run_goes_to_host_memory_and_back(bench: Bench, tmp_path: Path) -> None:
    for workers, layout, first, until in (
        (2, {"parallel__zero": 2}, 0, 3),
        (2, OFFLOAD | {"parallel__zero": 3}, 3, 6),
        (1, OFFLOAD | {"parallel__zero": 2}, 6, 9),
        (1, {"parallel__zero": 0}, 9, 12),
    ):
        follows(bench.cell(workers, until=until, save=True, run=str(tmp_path), **layout), bench.base, first)


@pytest.mark.parametrize(("zero", "precision"), cells((1, "bf16"), (2, "fp32"), (3, "fp32"), often=((2, "fp32"),)))
def test_a_gradient_that_is_not_finite_is_skipped_on_all_ranks(bench: Bench, zero: int, precision: str) -> None:
    layout = OFFLOAD | {"parallel__zero": zero, "train__precision": precision}
    before = bench.cell(2, until=3, **layout)
    stopped = bench.cell(2, poison=3, until=4, **layout)
    assert [r["skipped"] for r in stopped] == [1, 1]
    assert {r["weights"] for r in stopped} == {r["weights"] for r in before}


@pytest.mark.full
@pytest.mark.parametrize("axis", ["parallel__tensor", "parallel__sequence"])
def test_with_shards_and_parts_of_rows(bench: Bench, axis: str) -> None:
    follows(bench.cell(2, parallel__zero=2, **{axis: 2}, **OFFLOAD), bench.base)
