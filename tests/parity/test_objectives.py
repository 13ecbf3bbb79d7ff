"""Preference optimisation, and fine-tuning with a guard against forgetting, equal their formulas over every split."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from bench import LORA, TOLERANCE, Bench, cells, furthest, resumes
from material import CONFIG, make_samples
from objective_material import (
    BETA,
    CENTRE_WEIGHT,
    CLASS_WEIGHTS,
    DOMAINS,
    ENCODER,
    EPSILON,
    FOCAL_GAMMA,
    GAMMA,
    HEAT,
    KL_WEIGHT,
    LABELS,
    LIST_CENTRE,
    RANK_MARGIN,
    REVERSAL,
    SECOND_HEAD,
    SECOND_RATE,
    SFT_WEIGHT,
    SHARE,
    SMOOTHING,
    TEMPERATURE,
    TOP_K,
    WANTED_WEIGHT,
    Material,
    adversarial,
    by_formula,
    classify_loss,
    contrastive_loss,
    distill_loss,
    domain_loss,
    dynamic_loss,
    embedding_loss,
    encoder_loss,
    entropy_loss,
    fresh_encoder,
    guarded_loss,
    is_wanted,
    judged_loss,
    make_classified,
    make_domains,
    make_guarded,
    make_judged,
    make_matched,
    make_pairs,
    make_ranked,
    nll_loss,
    odds_loss,
    preference_loss,
    ranked_loss,
    reward_loss,
    robust_loss,
    save_teacher,
    simple_loss,
    smooth_loss,
    with_score,
    with_second,
)
from reference import fresh_model

from raysft.recipe import objective_traits
from raysft.recipe.columns import teacher_top_k

UNTIL = 5

APART = {"names": DOMAINS, "reversal": REVERSAL, "hidden_size": SECOND_HEAD, "learning_rate_ratio": SECOND_RATE}
DISTILL: dict[str, Any] = {
    "objective__kind": "distill",
    "objective__teachers": ["teacher"],
    "objective__teacher_top_k": TOP_K,
    "objective__divergence": "js",
    "objective__temperature": TEMPERATURE,
    "objective__share": SHARE,
}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "dpo": {"objective__kind": "dpo", "objective__beta": BETA},
    "guarded": {"objective__kl_weight": KL_WEIGHT, "objective__kl_top_k": TOP_K},
    "distill": DISTILL,
    "live": {**DISTILL, "objective__live": True},
    "smooth": {"objective__label_smoothing": SMOOTHING},
    "asft": {"objective__kind": "dft", "objective__kl_weight": KL_WEIGHT, "objective__kl_top_k": TOP_K},
    "eaft": {"objective__kind": "eaft", "objective__entropy_top_k": 6},
    "robust": {
        "objective__kind": "dpo",
        "objective__beta": BETA,
        "objective__loss": "robust",
        "objective__label_smoothing": SMOOTHING,
        "objective__sft_weight": SFT_WEIGHT,
    },
    "cpo": {"objective__kind": "cpo", "objective__beta": BETA, "objective__label_smoothing": SMOOTHING},
    "simpo": {"objective__kind": "simpo", "objective__beta": 2.0, "objective__gamma": GAMMA},
    "orpo": {"objective__kind": "orpo", "objective__beta": BETA},
    "reward": {"objective__kind": "reward", "objective__centre_weight": CENTRE_WEIGHT},
    "ranked pairs": {
        "objective__kind": "reward",
        "objective__compare": "pairs",
        "objective__margin_weight": RANK_MARGIN,
        "objective__centre_weight": LIST_CENTRE,
    },
    "ranked list": {
        "objective__kind": "reward",
        "objective__compare": "list",
        "objective__centre_weight": LIST_CENTRE,
    },
    "classify": {
        "objective__kind": "classify",
        "objective__labels": LABELS,
        "objective__class_weights": CLASS_WEIGHTS,
        "objective__focal_gamma": FOCAL_GAMMA,
    },
    "encoder": {
        "objective__kind": "classify",
        "objective__labels": LABELS,
        "model__config": ENCODER,
        "data__packing": False,
    },
    "domains": {"objective__kind": "classify", "objective__labels": LABELS, "objective__domains": APART},
    "encoder of domains": {
        "objective__kind": "classify",
        "objective__labels": LABELS,
        "objective__domains": APART,
        "model__config": ENCODER,
        "data__packing": False,
    },
    "moved": {"train__adversarial_epsilon": EPSILON},
    "moved encoder": {
        "objective__kind": "classify",
        "objective__labels": LABELS,
        "model__config": ENCODER,
        "data__packing": False,
        "train__adversarial_epsilon": EPSILON,
    },
    "kto": {"objective__kind": "kto", "objective__beta": BETA, "objective__wanted_weight": WANTED_WEIGHT},
    "matched": {"objective__kind": "contrastive", "objective__temperature": HEAT},
    "matched encoder": {
        "objective__kind": "contrastive",
        "objective__temperature": HEAT,
        "model__config": ENCODER,
        "data__packing": False,
    },
}
LOSSES = {
    "dpo": preference_loss,
    "guarded": guarded_loss,
    "distill": distill_loss,
    "live": distill_loss,
    "smooth": smooth_loss,
    "asft": dynamic_loss,
    "eaft": entropy_loss,
    "robust": robust_loss,
    "cpo": contrastive_loss,
    "simpo": simple_loss,
    "orpo": odds_loss,
    "kto": judged_loss,
    "reward": reward_loss,
    "ranked pairs": partial(ranked_loss, by_pairs=True),
    "ranked list": partial(ranked_loss, by_pairs=False),
    "classify": classify_loss,
    "encoder": encoder_loss,
    "domains": domain_loss,
    "encoder of domains": domain_loss,
    "moved": adversarial(nll_loss),
    "moved encoder": adversarial(encoder_loss),
    "matched": embedding_loss,
    "matched encoder": embedding_loss,
}


def test_every_objective_is_here() -> None:
    tried = {fields.get("objective__kind", "sft") for fields in OBJECTIVES.values()}
    assert tried == set(objective_traits.OBJECTIVES)


@pytest.fixture(scope="module")
def materials(bench: Bench) -> dict[str, Material]:
    pairs = make_pairs(bench.directory, bench.tokenizer)
    guarded = make_guarded(bench.directory, bench.tokenizer, make_samples(48))
    taught = make_guarded(
        bench.directory, bench.tokenizer, make_samples(48), teacher_top_k(TOP_K), temperature=TEMPERATURE
    )
    save_teacher(bench.directory / "teacher", bench.tokenizer)
    single = {
        **dict.fromkeys(("guarded", "smooth", "asft", "eaft", "moved"), guarded),
        **dict.fromkeys(("distill", "live"), taught),
        "kto": make_judged(bench.directory, pairs),
        **dict.fromkeys(("ranked pairs", "ranked list"), make_ranked(bench.directory, pairs)),
        **dict.fromkeys(("matched", "matched encoder"), make_matched(bench.directory, bench.tokenizer)),
        **dict.fromkeys(("domains", "encoder of domains"), make_domains(bench.directory, pairs)),
        **dict.fromkeys(("classify", "encoder", "moved encoder"), make_classified(bench.directory, pairs)),
    }
    return {name: single.get(name, pairs) for name in OBJECTIVES}


@pytest.fixture(scope="module")
def alone(bench: Bench, materials: dict[str, Material]) -> dict[str, dict[str, Any]]:
    """One worker, ZeRO 0, micro-batch 1."""
    return {name: train(bench, materials, name, 1) for name in OBJECTIVES}


def train(bench: Bench, materials: dict[str, Material], name: str, workers: int, **changes: Any) -> dict[str, Any]:
    fields = {**OBJECTIVES[name], "train__rows_per_step": 4, "until": UNTIL, **changes}
    if name == "live":
        fields["objective__teachers"] = [str(bench.directory / "teacher")]
    return bench.cell(workers, store=materials[name].store, reduced=True, **fields)[0]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_curve_is_that_of_the_formula(
    bench: Bench, materials: dict[str, Material], alone: dict[str, dict[str, Any]], name: str
) -> None:
    steps = [sorted(set(members)) for members in alone[name]["samples"]]
    assert all(len(members) > 2 for members in steps)
    rows = len(bench.tokenizer)
    model = fresh_encoder(rows, bare="matched" in name) if "encoder" in name else fresh_model(CONFIG, rows, seed=0)
    model = with_score(model, WITH_HEAD[name]) if name in WITH_HEAD else model
    model = with_second(model, 64) if "domains" in name else model
    model = model.double()  # fp32 would add roundings of its own
    losses, norms = by_formula(LOSSES[name], materials[name], model, steps)
    assert furthest(alone[name]["losses"], losses) < TOLERANCE
    assert furthest(alone[name]["norms"], norms) < TOLERANCE
    assert len(set(losses)) == UNTIL


SPLITS: dict[str, dict[str, Any]] = {
    "one worker, micro-batch 4": {"parallel__zero": 0, "train__micro_batch_rows": 4},
    "ZeRO 1": {"parallel__zero": 1},
    "ZeRO 2, micro-batch 2": {"parallel__zero": 2, "train__micro_batch_rows": 2},
    "ZeRO 3, micro-batch 2": {"parallel__zero": 3, "train__micro_batch_rows": 2},
    "2 pipeline stages": {"parallel__pipeline": 2, "parallel__zero": 1},
    "sequence parallel 2": {"parallel__sequence": 2, "parallel__zero": 2},
    "tensor parallel 2": {"parallel__tensor": 2, "parallel__zero": 1},
    "unpacked": {"data__packing": False, "parallel__zero": 1},
    "ZeRO 3, tiny chunks": {"parallel__zero": 3, "loss_chunk": 3},
}


EACH_TIME = ("one worker, micro-batch 4", "ZeRO 3, micro-batch 2", "2 pipeline stages", "unpacked")
MORE = {
    **dict.fromkeys(("dpo", "guarded"), ("ZeRO 3, tiny chunks", "sequence parallel 2")),
    **dict.fromkeys(("moved", "moved encoder"), ("ZeRO 2, micro-batch 2",)),
    "matched": ("sequence parallel 2",),
    "live": ("sequence parallel 2", "tensor parallel 2"),
}
"""{objective: splits that are tried each time besides}."""
WITH_HEAD = {
    **dict.fromkeys(("reward", "ranked pairs", "ranked list"), 1),
    "classify": len(LABELS),
    "domains": len(LABELS),
}
"""{objective with a head of its own: its numbers}."""
NOT_CUT = {
    **dict.fromkeys(("encoder", "encoder of domains"), ("pipeline", "parallel", "unpacked")),
    "moved": ("pipeline", "parallel", "ZeRO 3"),
    "moved encoder": ("pipeline", "parallel", "unpacked", "ZeRO 3"),
    **dict.fromkeys(("matched", "live"), ("pipeline",)),
    "matched encoder": ("pipeline", "parallel", "unpacked"),
    **dict.fromkeys(WITH_HEAD, ("pipeline",)),
}
"""Words of the splits that an objective has not."""
EVERY_CELL = [
    (name, split)
    for name in OBJECTIVES
    for split in SPLITS
    if not any(word in split for word in NOT_CUT.get(name, ()))
]
OFTEN_CELLS = [(name, split) for name, split in EVERY_CELL if split in (*EACH_TIME, *MORE.get(name, ()))]
SPLIT_UNTIL = 3


def test_every_objective_is_tried_in_every_way_that_it_has() -> None:
    """Micro-batches of 1 are those of `alone`, and of two workers unpacked."""
    for name, fields in OBJECTIVES.items():
        tried = {split for tried_name, split in OFTEN_CELLS if tried_name == name}
        traits = objective_traits.OBJECTIVES[fields.get("objective__kind", "sft")]
        is_moved, is_unpacked = "train__adversarial_epsilon" in fields, fields.get("data__packing") is False
        is_live = fields.get("objective__live", False)
        expected = {
            "micro-batch 2": True,
            "micro-batch 4": True,
            "ZeRO 3": not is_moved,
            "pipeline": not (is_moved or is_live or traits.whole_rows),
            "unpacked": not is_unpacked,
        }
        assert {word: any(word in split for split in tried) for word in expected} == expected, name


@pytest.mark.parametrize(("name", "split"), cells(*EVERY_CELL, often=tuple(OFTEN_CELLS)))
def test_every_split_has_the_curve(
    bench: Bench, materials: dict[str, Material], alone: dict[str, dict[str, Any]], name: str, split: str
) -> None:
    workers = 1 if split.startswith("one worker") else 2
    found, base = train(bench, materials, name, workers, until=SPLIT_UNTIL, **SPLITS[split]), alone[name]
    assert furthest(found["losses"], base["losses"][:SPLIT_UNTIL]) < TOLERANCE
    assert furthest(found["norms"], base["norms"][:SPLIT_UNTIL]) < TOLERANCE
    assert found["held_out_first"]["loss"] == pytest.approx(found["losses"][0], rel=1e-6)
    assert found["held_out_both"]["loss"] == pytest.approx(base["held_out_both"]["loss"], rel=1e-5)
    assert found["held_out_both"]["units"] == base["held_out_both"]["units"]
    for ours, theirs in zip(found["metrics"], base["metrics"][:SPLIT_UNTIL], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)


def test_metrics_are_those_of_the_pairs(
    materials: dict[str, Material], alone: dict[str, dict[str, Any]], bench: Bench
) -> None:
    """At the first step, by hand."""
    material, model = materials["dpo"], fresh_model(CONFIG, len(bench.tokenizer), seed=0)
    gains = {m: float(material.samples[m].answer(model)) - material.reference[m] for m in alone["dpo"]["samples"][0]}
    margins = [BETA * (gains[m] - gains[m + 1]) for m in gains if m % 2 == 0]
    expected = {"accuracy": sum(m > 0 for m in margins) / len(margins), "margin": sum(margins) / len(margins)}
    assert alone["dpo"]["metrics"][0] == pytest.approx(expected, rel=1e-4)
    assert alone["dpo"]["held_out_first"]["metrics"] == pytest.approx(expected, rel=1e-4)


def test_the_drift_is_that_of_all_mismatched_answers_of_the_step(
    materials: dict[str, Material], alone: dict[str, dict[str, Any]], bench: Bench
) -> None:
    """At the first step, by hand."""
    material, model = materials["kto"], fresh_model(CONFIG, len(bench.tokenizer), seed=0)
    members = alone["kto"]["samples"][0]
    gains = {m: float(material.samples[m].answer(model)) - material.reference[m] for m in members}
    wanted = [gain for m, gain in gains.items() if m % 2 == 0 and is_wanted(m // 2)]
    others = [gain for m, gain in gains.items() if m % 2]
    assert 0 < len(others) < len(members) / 2
    found = alone["kto"]["metrics"][0]
    assert found["drift"] == pytest.approx(sum(others) / len(others), rel=1e-4)
    assert found["wanted_gain"] == pytest.approx(sum(wanted) / len(wanted), rel=1e-4)


def test_units_are_pairs_targets_and_tokens(materials: dict[str, Material], alone: dict[str, dict[str, Any]]) -> None:
    members = [member for step in (0, 1) for member in alone["dpo"]["samples"][step]]
    assert alone["dpo"]["held_out_both"]["units"] == {"dpo": len(members) / 2}
    members = [member for step in (0, 1) for member in alone["guarded"]["samples"][step]]
    samples = [materials["guarded"].samples[member] for member in members]
    expected = {"nll": sum(sum(s.target[1:]) for s in samples), "kl": sum(len(s.ids) for s in samples)}
    assert alone["guarded"]["held_out_both"]["units"] == expected


def test_a_sum_before_the_division_is_noticed(
    bench: Bench, materials: dict[str, Material], alone: dict[str, dict[str, Any]]
) -> None:
    mutant = train(bench, materials, "guarded", 2, mutant="all_over_all", parallel__zero=2)
    assert furthest(mutant["losses"], alone["guarded"]["losses"]) > 100 * TOLERANCE
    assert furthest(mutant["norms"], alone["guarded"]["norms"]) > 100 * TOLERANCE


@pytest.mark.full
@pytest.mark.parametrize("rows", [1, 2, 4])
@pytest.mark.parametrize("zero", [0, 3])
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("name", ["matched", "matched encoder"])
def test_a_step_is_compared_as_one_batch(
    bench: Bench, materials: dict[str, Material], name: str, workers: int, zero: int, rows: int
) -> None:
    """The step in one micro-batch of one process, which is all that the loss is a formula of."""
    whole = train(bench, materials, name, 1, train__micro_batch_rows=4)
    found = train(bench, materials, name, workers, parallel__zero=zero, train__micro_batch_rows=rows)
    assert furthest(found["losses"], whole["losses"]) < TOLERANCE
    assert furthest(found["norms"], whole["norms"]) < TOLERANCE
    for ours, theirs in zip(found["metrics"], whole["metrics"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6)


def test_vectors_that_are_compared_are_those_that_learn(bench: Bench, materials: dict[str, Material]) -> None:
    """Dropout drops the same in both passes of a step."""
    fields = {**OBJECTIVES["matched encoder"], "model__config": {**ENCODER, "hidden_dropout_prob": 0.3}}
    told = bench.cell(2, store=materials["matched encoder"].store, until=1, vectors=True, **fields)[0]["vectors"]
    half = len(told) // 2
    assert half > 1  # micro-batches of this rank
    assert told[:half] == told[half:]
    assert len({*told}) == half


RESUMED = [(name, zero) for name in ("domains", "encoder of domains") for zero in (0, 3)]


@pytest.mark.parametrize(("name", "zero"), cells(*RESUMED, often=(("domains", 3),)))
def test_domains_are_kept_out_as_far_as_the_run_had_come(
    bench: Bench, materials: dict[str, Material], tmp_path: Path, name: str, zero: int
) -> None:
    """A commit has the second head, and the schedule goes on where it was."""
    cell = {**OBJECTIVES[name], "train__rows_per_step": 4, "store": materials[name].store, "parallel__zero": zero}
    whole = bench.cell(2, until=UNTIL, **cell)[0]
    resumes(bench, tmp_path, whole, (2, 3, UNTIL), cell)


@pytest.mark.full
@pytest.mark.parametrize("name", OBJECTIVES)
def test_adapters(bench: Bench, materials: dict[str, Material], name: str) -> None:
    lora = LORA | {"method__target_modules": ["query", "value"]} if "encoder" in name else LORA
    first = train(bench, materials, name, 1, **lora)
    for split in ("ZeRO 3, micro-batch 2", "2 pipeline stages", "sequence parallel 2", "tensor parallel 2"):
        if (name, split) not in EVERY_CELL:
            continue
        found = train(bench, materials, name, 2, **lora, **SPLITS[split])
        assert furthest(found["losses"], first["losses"]) < TOLERANCE
