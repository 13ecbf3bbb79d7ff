"""The pipeline engine follows the same curve, over stages, replicas, ZeRO stages, restarts; and its mutants do not.

`make parity-full` runs the rest: longer pipelines and the other model shapes.
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

PP2: dict[str, Any] = {"parallel__pipeline": 2}


def follows(results: list[dict[str, Any]], base: dict[str, Any], first: int = 0) -> None:
    """Every rank tells the same, and it is the curve."""
    for name in ("losses", "norms", "weights", "held_out", "skipped"):
        assert all(result[name] == results[0][name] for result in results)
    assert results[0]["first"] == first
    assert furthest(results[0]["losses"], base["losses"][first:]) < TOLERANCE
    assert furthest(results[0]["norms"], base["norms"][first:]) < TOLERANCE
    if "held_out" in base:
        assert furthest([results[0]["held_out"]], [base["held_out"]]) < TOLERANCE
    ties = [result["tied"] for result in results if result["tied"]]  # first and last stages
    assert all(tied == ties[0] for tied in ties)


SPLITS = [(2, 0, 2), (2, 1, 1), (4, 0, 1), (4, 1, 2)]


@pytest.mark.parametrize(
    ("workers", "zero", "micro", "method"),
    cells(
        *((*split, method) for split in SPLITS for method in ("full", "lora")),
        often=((2, 1, 1, "full"), (4, 1, 2, "full"), (2, 0, 2, "lora")),
    ),
)
def test_stages_and_replicas(bench: Bench, workers: int, zero: int, micro: int, method: str) -> None:
    change = LORA if method == "lora" else {}
    base = bench.cell(1, **change)[0] if change else bench.base
    results = bench.cell(workers, parallel__zero=zero, train__micro_batch_rows=micro, **PP2, **change)
    follows(results, base)
    assert len(results[0]["tied"]) == (0 if change else 1)
    seen = [sorted(i for part in parts for i in part) for parts in zip(*(r["samples"] for r in results), strict=True)]
    assert seen == [sorted(step) for step in base["samples"]]


def test_norms_and_final_weights_are_those_of_a_bare_loop(bench: Bench, tmp_path: Path) -> None:
    """Gradients scaled once per stage, or a micro-batch left out of the reduction, would show here."""
    samples = [tokens_and_targets(bench.tokenizer, q, a) for q, a in make_samples()]
    model = fresh_model(CONFIG, len(bench.tokenizer), seed=0)
    losses, norms = run_reference(
        model, samples, bench.base["samples"], learning_rate=3e-3, weight_decay=0.1, max_grad_norm=1.0
    )
    for zero in (0, 1):
        path = tmp_path / f"{zero}.safetensors"
        result = bench.cell(4, parallel__zero=zero, weights_to=str(path), **PP2)[0]
        assert furthest(result["losses"], losses) < TOLERANCE
        assert furthest(result["norms"], norms) < TOLERANCE
        found = load_file(path)
        expected = dict(model.named_parameters())
        assert {key.partition(":")[2] for key in found if key.startswith("weight:")} == set(expected)
        for name, parameter in expected.items():
            torch.testing.assert_close(found[f"weight:{name}"], parameter.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mutant", ["mean_of_means", "scale_each_stage"])
def test_mutants_leave_the_curve(bench: Bench, mutant: str) -> None:
    result = bench.cell(2, mutant=mutant, **PP2)[0]
    assert furthest(result["losses"], bench.base["losses"]) > 100 * TOLERANCE
    assert furthest(result["norms"], bench.base["norms"]) > 100 * TOLERANCE


def test_gradient_checkpointing_and_unpacked_rows(bench: Bench) -> None:
    """Unpacked micro-batches differ in rows and in length: every one has a shape of its own."""
    for change in ({"train__gradient_checkpointing": True}, {"data__packing": False, "train__micro_batch_rows": 2}):
        follows(bench.cell(2, **PP2, **change), bench.base)


def test_a_run_goes_from_zero_to_a_pipeline_and_back(bench: Bench, tmp_path: Path) -> None:
    """Every start reads the logical checkpoint of another layout."""
    bench.cell(2, until=5, save=True, run=str(tmp_path), parallel__zero=2)
    for workers, layout, first, until in (
        (2, PP2, 5, 9),
        (4, PP2 | {"parallel__zero": 1}, 9, 13),
        (2, {"parallel__zero": 3}, 13, 16),
        (2, PP2 | {"parallel__zero": 1}, 16, 20),
    ):
        results = bench.cell(workers, until=until, save=True, run=str(tmp_path), **layout)
        assert results[0]["first"] == first
        assert furthest(results[0]["losses"], bench.base["losses"][first:until]) < TOLERANCE
        assert furthest(results[0]["norms"], bench.base["norms"][first:until]) < TOLERANCE


@pytest.mark.parametrize(
    ("workers", "zero", "method"), cells((2, 0, "full"), (4, 1, "full"), (2, 1, "lora"), often=((2, 1, "lora"),))
)
def test_bf16_resumes_bit_identically(bench: Bench, tmp_path: Path, workers: int, zero: int, method: str) -> None:
    change = LORA if method == "lora" else {}
    base = bench.cell(1, until=5, **change)[0]
    cell = {"parallel__zero": zero, "train__precision": "bf16", **PP2, **change}
    whole = bench.cell(workers, until=5, **cell)[0]
    first = bench.cell(workers, until=3, save=True, run=str(tmp_path), **cell)[0]
    second = bench.cell(workers, until=5, run=str(tmp_path), **cell)[0]
    assert first["losses"] + second["losses"] == whole["losses"]
    assert second["weights"] == whole["weights"]
    assert furthest(whole["losses"], base["losses"]) < 5e-3


@pytest.mark.parametrize(("zero", "precision"), cells((0, "fp32"), (1, "fp32"), (1, "bf16"), often=((1, "bf16"),)))
def test_a_gradient_that_is_not_finite_is_skipped_on_all_ranks(bench: Bench, zero: int, precision: str) -> None:
    """NaN in one replica only: no stage changes a weight in that step, and training goes on."""
    layout = PP2 | {"parallel__zero": zero, "train__precision": precision}
    before = bench.cell(4, until=3, **layout)
    stopped = bench.cell(4, poison=3, until=4, **layout)
    assert [r["skipped"] for r in stopped] == [1, 1, 1, 1]
    assert {r["weights"] for r in stopped} == {r["weights"] for r in before}
    later = bench.cell(4, poison=3, until=6, **layout)[0]
    assert all(loss == loss for loss in later["losses"][4:])  # NaN would differ from itself


def test_a_stage_with_nothing_to_train_is_refused_on_all_ranks(bench: Bench) -> None:
    for rank in bench.cell(2, **PP2, **(LORA | {"method__target_modules": ["0.self_attn.q_proj"]})):
        assert "stage 1 of 2" in rank["refused"]
    follows(bench.cell(2, until=2, **PP2), {name: bench.base[name][:2] for name in ("losses", "norms")})


def test_dropout_is_the_same_over_replicas_and_in_every_run(bench: Bench) -> None:
    wet = LORA | PP2 | {"method__dropout": 0.5, "until": 6}
    one, again, two = bench.cell(2, **wet)[0], bench.cell(2, **wet)[0], bench.cell(4, **wet)[0]
    dry = bench.cell(1, until=6, **LORA)[0]
    assert one["losses"] == again["losses"]
    assert furthest(two["losses"], one["losses"]) < TOLERANCE
    assert furthest(one["losses"], dry["losses"]) > 100 * TOLERANCE


def test_the_probe_leaves_no_trace(bench: Bench) -> None:
    for fields in (PP2, PP2 | {"parallel__zero": 1}):
        plain, probed = (bench.cell(2, until=3, probe=probe, **fields) for probe in (False, True))
        for name in ("losses", "norms", "weights"):
            assert [rank[name] for rank in probed] == [rank[name] for rank in plain]


FOUR = CONFIG | {"num_hidden_layers": 4}
SLIDING = {"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 16, "head_dim": 16}
DRY = {"resid_pdrop": 0.0, "attn_pdrop": 0.0, "embd_pdrop": 0.0}
SHAPES: dict[str, dict[str, Any]] = {
    "untied": FOUR | {"tie_word_embeddings": False},
    "qwen2": FOUR | {"model_type": "qwen2"},
    "qwen3": FOUR | {"model_type": "qwen3", "head_dim": 16},
    "mistral": FOUR | {"model_type": "mistral", "head_dim": 16},
    "gemma": FOUR | {"model_type": "gemma", "head_dim": 16},
    "gemma2": FOUR | {"model_type": "gemma2"} | SLIDING,
    "gemma3": FOUR | {"model_type": "gemma3_text"} | SLIDING,
    "gpt2": {"model_type": "gpt2", "n_embd": 64, "n_layer": 4, "n_head": 4, "n_positions": 256} | DRY,
    "gpt_neox": {k: v for k, v in FOUR.items() if k != "num_key_value_heads"} | {"model_type": "gpt_neox"},
    "opt": {
        "model_type": "opt",
        "hidden_size": 64,
        "ffn_dim": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
        "word_embed_proj_dim": 32,
        "dropout": 0.0,
    },
}


@pytest.mark.full
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_in_two_and_four_stages(bench: Bench, shape: str) -> None:
    change = {"model__config": SHAPES[shape], "model__attention": "eager" if shape == "gemma2" else "sdpa"}
    change["optimizer__learning_rate"] = 1e-3  # at 3e-3 Gemma magnifies roundings to 4e-4 without any pipeline
    base = bench.cell(1, **change)[0]
    follows(bench.cell(2, **PP2, **change), base)
    follows(bench.cell(4, parallel__pipeline=4, parallel__zero=1, **change), base)


@pytest.mark.full
def test_bf16_equals_bf16_without_a_pipeline(bench: Bench) -> None:
    """Later steps part slowly, by single roundings of weights (on CPUs that multiply bf16 the fourth norm is off by
    1.25e-4, to the same digits at 5f92132); tied gradients are summed in fp32 only here."""
    change = {"model__config": SHAPES["untied"], "train__precision": "bf16", "parallel__zero": 1, "until": 3}
    base, result = bench.cell(1, **change)[0], bench.cell(2, **PP2, **change)[0]
    assert furthest(result["losses"], base["losses"]) < TOLERANCE
    assert furthest(result["norms"], base["norms"]) < TOLERANCE
