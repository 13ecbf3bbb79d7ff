"""One recipe gives one loss curve, whatever the split; and it is the curve of a bare PyTorch loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bench import LORA, TOLERANCE, Bench, cells, furthest
from material import CONFIG, make_samples
from reference import fresh_model, run_reference, tokens_and_targets


def test_equals_a_bare_pytorch_loop(bench: Bench) -> None:
    samples = [tokens_and_targets(bench.tokenizer, q, a) for q, a in make_samples()]
    model = fresh_model(CONFIG, len(bench.tokenizer), seed=0)
    losses, norms = run_reference(
        model, samples, bench.base["samples"], learning_rate=3e-3, weight_decay=0.1, max_grad_norm=1.0
    )
    assert losses[-1] <= 0.8 * losses[0]
    assert furthest(bench.base["losses"], losses) < TOLERANCE
    assert furthest(bench.base["norms"], norms) < TOLERANCE


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
@pytest.mark.parametrize("micro", cells(1, 2, 4, often=(2,)))
def test_zero_workers_and_micro_batches(bench: Bench, zero: int, workers: int, micro: int) -> None:
    results = bench.cell(workers, parallel__zero=zero, train__micro_batch_rows=micro)
    assert furthest(results[0]["losses"], bench.base["losses"]) < TOLERANCE
    assert furthest(results[0]["norms"], bench.base["norms"]) < TOLERANCE
    seen = [sorted(i for part in parts for i in part) for parts in zip(*(r["samples"] for r in results), strict=True)]
    assert seen == [sorted(step) for step in bench.base["samples"]]


def test_the_data_tells_means_of_means_apart(bench: Bench) -> None:
    """The cells above mean something only if target counts differ a lot, and if a wrong mean is noticed."""
    one, two = bench.cell(2, train__micro_batch_rows=1)
    for step in range(20):
        micros = one["micro_targets"][step] + two["micro_targets"][step]
        assert max(micros) >= 3 * min(m for m in micros if m), step
    ranks = [(sum(a), sum(b)) for a, b in zip(one["micro_targets"], two["micro_targets"], strict=True)]
    assert max(max(pair) / min(pair) for pair in ranks) >= 3
    for workers in (1, 2):
        mutant = bench.cell(workers, mutant="mean_of_means")[0]
        assert furthest(mutant["losses"], bench.base["losses"]) > 100 * TOLERANCE


@pytest.mark.parametrize(("workers", "zero"), [(1, 0), (2, 2), (2, 3)])
def test_products_of_two_libraries(bench: Bench, workers: int, zero: int) -> None:
    """All other cells compute by oneDNN; this one as torch does by itself, and not to the same bits."""
    theirs = bench.cell(workers, parallel__zero=zero, own_products=True)[0]
    assert furthest(theirs["losses"], bench.base["losses"]) < TOLERANCE
    assert furthest(theirs["norms"], bench.base["norms"]) < TOLERANCE
    assert theirs["losses"] != bench.cell(workers, parallel__zero=zero)[0]["losses"]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"parallel__zero": 0}, marks=pytest.mark.full),
        {"parallel__zero": 1, "train__precision": "bf16"},
        pytest.param({"parallel__zero": 2}, marks=pytest.mark.full),
        {"parallel__zero": 3, **LORA},
    ],
    ids=["ZeRO 0", "bf16 ZeRO 1", "ZeRO 2", "LoRA ZeRO 3"],
)
def test_more_micro_batches_put_no_more_questions(bench: Bench, change: dict[str, Any]) -> None:
    """The host asks the device as often in a step of 8 micro-batches as in one of 2: it never waits within.

    The third: before it ZeRO 3 compares with all ranks in what order it has seen the parameters."""
    few, many = (bench.cell(1, train__micro_batch_rows=rows, until=3, questions=True, **change)[0] for rows in (4, 1))
    assert len(many["micro_targets"][2]) == 4 * len(few["micro_targets"][2])
    assert few["questions"][2], "the norm of the gradients is asked for in every step"
    assert many["questions"][2] == few["questions"][2]


def test_gradient_checkpointing_and_unpacked_rows(bench: Bench) -> None:
    for change in ({"train__gradient_checkpointing": True}, {"data__packing": False}):
        result = bench.cell(2, parallel__zero=2, train__micro_batch_rows=2, **change)[0]
        assert furthest(result["losses"], bench.base["losses"]) < TOLERANCE
        assert furthest(result["norms"], bench.base["norms"]) < TOLERANCE


@pytest.mark.parametrize(
    ("zero", "precision", "stages"),
    cells(
        (0, "fp32", 1),
        (1, "fp32", 1),
        (2, "fp32", 1),
        (3, "fp32", 1),
        (1, "bf16", 1),
        (1, "fp32", 2),
        often=((3, "fp32", 1), (1, "bf16", 1)),
    ),
)
def test_the_probe_leaves_no_trace(bench: Bench, zero: int, precision: str, stages: int) -> None:
    fields = {"parallel__zero": zero, "train__precision": precision, "parallel__pipeline": stages}
    plain, probed = (bench.cell(2, until=3, probe=probe, **fields) for probe in (False, True))
    for name in ("losses", "norms", "weights"):
        assert [rank[name] for rank in probed] == [rank[name] for rank in plain]
    assert plain[0]["skipped"] == 0


@pytest.mark.parametrize(
    ("layout", "precision"),
    [
        ({"parallel__zero": 1}, "bf16"),
        ({"parallel__zero": 3}, "bf16"),
        ({"parallel__pipeline": 2}, "bf16"),
        ({"parallel__tensor": 2}, "bf16"),
        ({"parallel__zero": 2}, "fp32"),
    ],
    ids=["zero-1", "zero-3", "pipeline", "tensor", "fp32"],
)
def test_a_kernel_that_leaks_in_bf16_alone(bench: Bench, layout: dict[str, Any], precision: str) -> None:
    """No check of the model in fp32 sees it: the engine is asked, and all ranks refuse, if it trains so."""
    cell = {"train__precision": precision, "until": 2, **layout}
    for rank in bench.cell(2, mutant="leak_in_bf16", **cell):
        assert ("packed samples see each other in the engine" in rank.get("refused", "")) == (precision == "bf16")
    plain, checked = (bench.cell(2, **(cell | {"check": check})) for check in (False, True))
    for name in ("losses", "norms", "weights"):
        assert [rank[name] for rank in checked] == [rank[name] for rank in plain], "and it leaves no trace"


UNTIED = dict(CONFIG) | {"tie_word_embeddings": False}


@pytest.mark.parametrize(("workers", "zero"), [(1, 0), (2, 3)])
def test_loss_in_chunks_and_attention_within_segments(bench: Bench, workers: int, zero: int) -> None:
    """Tiny chunks, a head that knows no loss, transformers' own attention with a mask: one curve; also untied."""
    masked = [{"model__attention": "eager"}] if workers == 1 else []
    for change in ({"loss_chunk": 7}, {"plain_head": True}, *masked):
        result = bench.cell(workers, parallel__zero=zero, train__micro_batch_rows=2, **change)[0]
        assert furthest(result["losses"], bench.base["losses"]) < TOLERANCE
        assert furthest(result["norms"], bench.base["norms"]) < TOLERANCE
    untied = {"parallel__zero": zero, "model__config": UNTIED}
    plain = bench.cell(1, plain_head=True, **(untied | {"parallel__zero": 0}))[0]
    fused = bench.cell(workers, loss_chunk=7, **untied)[0]
    assert furthest(fused["losses"], plain["losses"]) < TOLERANCE
    assert furthest(fused["norms"], plain["norms"]) < TOLERANCE


def test_rows_that_do_not_fit_are_halved_and_the_curve_stays(bench: Bench) -> None:
    plain = bench.cell(2, until=5, train__micro_batch_rows=1)
    halved = bench.cell(2, until=5, train__micro_batch_rows=4, probe=True, room=1)
    for name in ("losses", "norms", "weights", "micro_targets"):
        assert [rank[name] for rank in halved] == [rank[name] for rank in plain]


def test_dropout_is_the_same_over_workers(bench: Bench) -> None:
    """Exact at equal micro-batch composition only: one generator seed per micro-batch of the global step."""
    wet = LORA | {"method__dropout": 0.5, "train__micro_batch_rows": 2}
    one, two = bench.cell(1, **wet)[0], bench.cell(2, parallel__zero=2, **wet)[0]
    dry = bench.cell(1, **LORA)[0]
    assert furthest(one["losses"], two["losses"]) < TOLERANCE
    assert furthest(one["losses"], dry["losses"]) > 100 * TOLERANCE


SAME = cells(
    *((2, zero, precision) for zero in (0, 1, 2, 3) for precision in ("fp32", "bf16")),
    often=((2, 0, "fp32"), (2, 1, "bf16"), (2, 2, "fp32"), (2, 3, "bf16")),
)


@pytest.mark.parametrize(("workers", "zero", "precision"), SAME)
def test_resume_at_the_same_size_is_bit_identical(
    bench: Bench, tmp_path: Path, workers: int, zero: int, precision: str
) -> None:
    cell = {"parallel__zero": zero, "train__precision": precision, "train__micro_batch_rows": 2}
    whole = bench.cell(workers, until=12, **cell)[0]
    first = bench.cell(workers, until=7, save=True, run=str(tmp_path), **cell)[0]
    second = bench.cell(workers, until=12, run=str(tmp_path), **cell)[0]
    assert second["first"] == 7
    assert first["losses"] + second["losses"] == whole["losses"]
    assert second["weights"] == whole["weights"]


@pytest.mark.parametrize(
    ("saved", "loaded"),
    cells(
        ((2, 2), (1, 0)),
        ((1, 0), (2, 3)),
        ((2, 3), (1, 2)),
        ((1, 1), (2, 2)),
        ((2, 3), (2, 1)),
        often=(((1, 0), (2, 3)), ((2, 3), (1, 2))),
    ),
)
def test_resume_at_another_size_and_stage(
    bench: Bench, tmp_path: Path, saved: tuple[int, int], loaded: tuple[int, int]
) -> None:
    bench.cell(saved[0], until=7, save=True, run=str(tmp_path), parallel__zero=saved[1])
    second = bench.cell(loaded[0], run=str(tmp_path), parallel__zero=loaded[1])[0]
    assert second["first"] == 7
    assert furthest(second["losses"], bench.base["losses"][7:]) < TOLERANCE
    assert furthest(second["norms"], bench.base["norms"][7:]) < TOLERANCE


def test_lora_resumes(bench: Bench, tmp_path: Path) -> None:
    whole = bench.cell(2, until=12, parallel__zero=3, **LORA)[0]
    bench.cell(2, until=7, save=True, run=str(tmp_path), parallel__zero=3, **LORA)
    second = bench.cell(2, until=12, run=str(tmp_path), parallel__zero=3, **LORA)[0]
    assert second["weights"] == whole["weights"]


@pytest.mark.parametrize("zero", cells(1, 2, 3, often=(2,)))
def test_lora_in_bf16_resumes_bit_identically(bench: Bench, tmp_path: Path, zero: int) -> None:
    cell = LORA | {"train__precision": "bf16", "parallel__zero": zero}
    whole = bench.cell(2, until=6, **cell)[0]
    exact = bench.cell(2, until=6, **LORA)[0]
    assert furthest(whole["losses"], exact["losses"]) < 1e-3  # what bf16 leaves of the fp32 curve
    bench.cell(2, until=3, save=True, run=str(tmp_path), **cell)
    second = bench.cell(2, until=6, run=str(tmp_path), **cell)[0]
    assert second["first"] == 3
    assert second["weights"] == whole["weights"]


@pytest.mark.parametrize(
    ("zero", "precision"),
    cells(
        *((zero, precision) for zero in (0, 1, 2, 3) for precision in ("fp32", "bf16")),
        often=((0, "fp32"), (1, "bf16"), (3, "fp32")),
    ),
)
def test_a_gradient_that_is_not_finite_is_skipped_on_all_ranks(bench: Bench, zero: int, precision: str) -> None:
    """NaN on one rank only: no rank changes a weight in that step, and training goes on."""
    results = bench.cell(2, parallel__zero=zero, train__precision=precision, poison=3, until=6)
    clean = bench.cell(2, parallel__zero=zero, train__precision=precision, until=4)
    before = bench.cell(2, parallel__zero=zero, train__precision=precision, until=3)
    assert [r["skipped"] for r in results] == [1, 1]
    assert results[0]["losses"][:3] == clean[0]["losses"][:3]
    stopped = bench.cell(2, parallel__zero=zero, train__precision=precision, poison=3, until=4)
    assert stopped[0]["weights"] == before[0]["weights"]
    assert all(loss == loss for loss in results[0]["losses"][4:])  # NaN would differ from itself
