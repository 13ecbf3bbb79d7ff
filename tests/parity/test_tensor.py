"""Tensor parallelism follows the same curve, over ZeRO stages, restarts, model shapes; its mutant does not.

`make parity-full` runs the larger layouts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from bench import LORA, TOLERANCE, Bench, cells, furthest
from material import CONFIG, make_samples
from reference import fresh_model, run_reference, tokens_and_targets
from safetensors.torch import load_file
from test_pipeline import SHAPES
from test_sequence import follows

TP2: dict[str, Any] = {"parallel__tensor": 2}
ALL_LINEAR = LORA | {"method__target_modules": ["all-linear"]}


@pytest.mark.parametrize(("zero", "micro"), cells((0, 1), (1, 2), (2, 1), often=((1, 2), (2, 1))))
def test_shards_of_layers(bench: Bench, zero: int, micro: int) -> None:
    results = bench.cell(2, parallel__zero=zero, train__micro_batch_rows=micro, **TP2)
    follows(results, bench.base)
    assert furthest([results[0]["held_out"]], [bench.base["held_out"]]) < TOLERANCE
    assert len(results[0]["cut"]) == 2 * 7
    seen = [sorted(i for part in parts for i in part) for parts in zip(*(r["samples"] for r in results), strict=True)]
    assert seen == [sorted(step) for step in bench.base["samples"]]


def test_norms_and_final_weights_are_those_of_a_bare_loop(bench: Bench, tmp_path: Path) -> None:
    samples = [tokens_and_targets(bench.tokenizer, q, a) for q, a in make_samples()]
    model = fresh_model(CONFIG, len(bench.tokenizer), seed=0)
    losses, norms = run_reference(
        model, samples, bench.base["samples"], learning_rate=3e-3, weight_decay=0.1, max_grad_norm=1.0
    )
    path = tmp_path / "weights.safetensors"
    result = bench.cell(2, parallel__zero=1, weights_to=str(path), **TP2)[0]
    assert furthest(result["losses"], losses) < TOLERANCE
    assert furthest(result["norms"], norms) < TOLERANCE
    found = load_file(path)
    expected = dict(model.named_parameters())
    assert {key.partition(":")[2] for key in found if key.startswith("weight:")} == set(expected)
    for name, parameter in expected.items():
        torch.testing.assert_close(found[f"weight:{name}"], parameter.detach(), rtol=1e-4, atol=1e-5)


def test_a_sum_that_is_forgotten_leaves_the_curve(bench: Bench) -> None:
    result = bench.cell(2, mutant="forget_column_sum", **TP2)[0]
    assert furthest(result["losses"], bench.base["losses"]) > 100 * TOLERANCE
    assert furthest(result["norms"], bench.base["norms"]) > 100 * TOLERANCE


def test_checkpointing_and_unpacked_rows(bench: Bench) -> None:
    for change in ({"train__gradient_checkpointing": True}, {"data__packing": False, "train__micro_batch_rows": 2}):
        follows(bench.cell(2, until=8, **TP2, **change), bench.base)


@pytest.mark.parametrize("zero", cells(0, 1, 2, often=(1,)))
def test_adapters_are_cut_with_their_layers(bench: Bench, zero: int) -> None:
    base = bench.cell(1, **ALL_LINEAR)[0]
    results = bench.cell(2, parallel__zero=zero, **TP2, **ALL_LINEAR)
    follows(results, base)
    assert len(results[0]["cut"]) == 2 * 7 * 2  # the layers, and one half of each adapter


@pytest.mark.parametrize("method", cells("full", "lora", often=("lora",)))
def test_a_run_goes_to_shards_and_back(bench: Bench, tmp_path: Path, method: str) -> None:
    change = ALL_LINEAR if method == "lora" else {}
    base = bench.cell(1, **change)[0] if change else bench.base
    for workers, layout, first, until in (
        (2, {"parallel__zero": 2}, 0, 3),
        (2, TP2 | {"parallel__zero": 1}, 3, 6),
        (2, {"parallel__zero": 3}, 6, 8),
        (2, TP2 | {"parallel__zero": 0}, 8, 10),
        (1, {"parallel__zero": 0}, 10, 12),
    ):
        results = bench.cell(workers, until=until, save=True, run=str(tmp_path), **layout, **change)
        follows(results, base, first)


@pytest.mark.parametrize("method", cells("full", "lora", often=("lora",)))
@pytest.mark.parametrize("zero", cells(1, 2, often=(1,)))
def test_bf16_resumes_bit_identically(bench: Bench, tmp_path: Path, zero: int, method: str) -> None:
    change = {"parallel__zero": zero, "train__precision": "bf16"} | (ALL_LINEAR if method == "lora" else {})
    base = bench.cell(1, until=4, **change)[0]
    whole = bench.cell(2, until=4, **TP2, **change)[0]
    first = bench.cell(2, until=2, save=True, run=str(tmp_path), **TP2, **change)[0]
    second = bench.cell(2, until=4, run=str(tmp_path), **TP2, **change)[0]
    assert first["losses"] + second["losses"] == whole["losses"]
    assert second["weights"] == whole["weights"]
    assert furthest(whole["losses"], base["losses"]) < 5e-3


@pytest.mark.parametrize(("zero", "precision"), cells((0, "fp32"), (2, "fp32"), (1, "bf16"), often=((2, "fp32"),)))
def test_a_gradient_that_is_not_finite_is_skipped_on_all_ranks(bench: Bench, zero: int, precision: str) -> None:
    layout = TP2 | {"parallel__zero": zero, "train__precision": precision}
    before = bench.cell(2, until=3, **layout)
    stopped = bench.cell(2, poison=3, until=4, **layout)
    assert [r["skipped"] for r in stopped] == [1, 1]
    assert {r["weights"] for r in stopped} == {r["weights"] for r in before}


CUT = ("untied", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "gemma3", "gpt_neox", "opt")


@pytest.mark.full
@pytest.mark.parametrize("shape", CUT)
def test_every_shape(bench: Bench, shape: str) -> None:
    change = {"model__config": SHAPES[shape], "until": 10}
    if shape == "gemma2":  # its soft cap is in no SDPA
        change["model__attention"] = "eager"
    follows(bench.cell(2, parallel__zero=1, **TP2, **change), bench.cell(1, **change)[0])


@pytest.mark.full
@pytest.mark.parametrize("zero", [0, 1, 2])
def test_shards_and_replicas(bench: Bench, zero: int) -> None:
    follows(bench.cell(4, parallel__zero=zero, train__micro_batch_rows=2, **TP2), bench.base)


@pytest.mark.full
@pytest.mark.parametrize("zero", [0, 1, 2])
def test_shards_and_parts_of_rows(bench: Bench, zero: int) -> None:
    follows(bench.cell(4, parallel__zero=zero, parallel__sequence=2, **TP2), bench.base)
