"""LoRA trials that train together on one base follow the curves that each follows alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bench import Bench, furthest
from material import recipe_fields

STEPS = 20
TOLERANCE = 1e-5
PROJECTIONS = ["q_proj", "v_proj"]
TRIALS: list[dict[str, Any]] = [
    {"optimizer__learning_rate": 3e-3},
    {"optimizer__learning_rate": 1e-2, "method__rank": 2, "method__alpha": 32.0, "train__rows_per_step": 4},
    {"method__rank": 8, "method__target_modules": ["o_proj", "up_proj"], "train__micro_batch_rows": 3},
    {"optimizer__schedule": "cosine", "optimizer__max_grad_norm": 0.1, "optimizer__weight_decay": 0.5},
]
"""The last one joins late: in the place of the second, which is stopped after STOPPED steps."""
STOPPED = 7


def trials(bench: Bench, runs: Path, wanted: list[dict[str, Any]], **common: Any) -> list[dict[str, Any]]:
    made = []
    for number, changes in enumerate(wanted):
        fields = recipe_fields(
            str(bench.directory / "tokenizer"),
            **{"method__kind": "lora", "method__target_modules": PROJECTIONS, "method__rank": 4} | common | changes,
        )
        fields["data"]["eval"] = ["unused.jsonl"]
        fields["checkpoint"] = {"every_steps": 10}
        fields["evaluate"] = {"every_steps": 10, "max_rows": 3}
        made.append({"recipe": fields, "run": str(runs / str(number)), "steps": STEPS})
    return made


def train(bench: Bench, made: list[dict[str, Any]], **cell: Any) -> dict[str, Any]:
    return bench.run(1, {"store": bench.store, "trials": made, **cell}, timeout_s=200)[0]


def follows(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours["samples"] == theirs["samples"]
    for name in ("losses", "norms", "held_out"):
        assert furthest(ours[name], theirs[name]) < TOLERANCE, name
    assert ours["weights"].keys() == theirs["weights"].keys()
    for key, norm in theirs["weights"].items():
        assert ours["weights"][key] == pytest.approx(norm, rel=1e-3, abs=1e-7), key


@pytest.fixture(scope="module")
def alone(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    made = trials(bench, tmp_path_factory.mktemp("alone"), TRIALS)
    made[1]["pause"] = STOPPED
    found: list[dict[str, Any]] = train(bench, made)["trials"]
    return found


def test_each_trial_follows_its_own_curve(bench: Bench, alone: list[dict[str, Any]], tmp_path: Path) -> None:
    made = trials(bench, tmp_path, TRIALS)
    made[1]["pause"] = STOPPED
    result = train(bench, made, slots=[[0], [1, 3], [2]])
    assert [trial["outcome"]["status"] for trial in result["trials"]] == [
        "finished",
        "interrupted",
        *["finished"] * 2,
    ]
    assert [len(trial["losses"]) for trial in result["trials"]] == [STEPS, STOPPED, STEPS, STEPS]
    for ours, theirs in zip(result["trials"], alone, strict=True):
        follows(ours, theirs)
    assert furthest(alone[0]["losses"], alone[3]["losses"]) > 100 * TOLERANCE  # they differ from each other
    assert result["passes"] < sum(STEPS * k for k in (8, 4, 3, 8))  # as many as alone: nothing was shared


def test_an_adapter_on_its_neighbours_rows_is_found(
    bench: Bench, alone: list[dict[str, Any]], tmp_path: Path
) -> None:
    result = train(bench, trials(bench, tmp_path, TRIALS[:2]), slots=[[0], [1]], mutant="neighbours")
    assert furthest(result["trials"][1]["losses"][:STOPPED], alone[1]["losses"]) > 100 * TOLERANCE


def test_a_trial_that_is_not_finite_changes_no_bit_of_the_others(bench: Bench, tmp_path: Path) -> None:
    found = []
    for name, rate in (("plain", 1e-3), ("overflown", 1e38)):
        made = trials(bench, tmp_path / name, [TRIALS[0], {"optimizer__learning_rate": rate}, TRIALS[2]])
        for trial in made:
            trial["steps"] = 5
        found.append(train(bench, made, slots=[[0], [1], [2]])["trials"])
    plain, overflown = found
    assert (plain[1]["skipped"], overflown[1]["skipped"]) == ([], [2, 3, 4, 5])
    for number in (0, 2):
        for name in ("losses", "norms", "weights"):
            assert plain[number][name] == overflown[number][name]


def test_a_trial_that_cannot_be_set_up_fails_alone(bench: Bench, alone: list[dict[str, Any]], tmp_path: Path) -> None:
    made = trials(bench, tmp_path, [{"method__target_modules": ["lm_head"]}, TRIALS[0]])
    made[1]["pause"] = 3
    bad, good = train(bench, made, slots=[[0], [1]])["trials"]
    assert bad["outcome"]["status"] == "failed"
    assert "tune.executor: separate" in bad["outcome"]["error"]["fix"]
    assert furthest(good["losses"], alone[0]["losses"][:3]) < TOLERANCE


@pytest.mark.parametrize("first", ["alone", "together"])
def test_a_run_goes_on_from_the_other_kinds_checkpoint(
    bench: Bench, alone: list[dict[str, Any]], tmp_path: Path, first: str
) -> None:
    made = trials(bench, tmp_path, [TRIALS[0], TRIALS[2]])
    paused = [{**trial, "pause": 10} for trial in made]
    together = {"slots": [[0], [1]]}
    train(bench, paused, **(together if first == "together" else {}))
    result = train(bench, made, **(together if first == "alone" else {}))
    for ours, theirs in zip(result["trials"], (alone[0], alone[2]), strict=True):
        assert len(ours["losses"]) == STEPS
        for name in ("losses", "norms"):
            assert furthest(ours[name], theirs[name]) < TOLERANCE, name


def test_bf16(bench: Bench, tmp_path: Path) -> None:
    """The base in bf16, adapters in fp32; alone it is DeepSpeed's BF16_Optimizer."""
    found = []
    for name, slots in (("alone", {}), ("together", {"slots": [[0], [1]]})):
        made = trials(bench, tmp_path / name, [TRIALS[0], TRIALS[2]], train__precision="bf16")
        for trial in made:
            trial["steps"] = 4
        found.append(train(bench, made, **slots)["trials"])
    for theirs, ours in zip(*found, strict=True):
        assert furthest(ours["losses"], theirs["losses"]) < 5e-3
        assert furthest(ours["norms"], theirs["norms"]) < 0.02
        assert ours["weights"].keys() == theirs["weights"].keys()


def test_dropout_draws_what_it_draws_alone(bench: Bench, tmp_path: Path) -> None:
    """From a generator of each trial, step and micro-batch, layer after layer."""
    wanted = [
        {"method__dropout": 0.3},
        {"method__dropout": 0.1, "train__rows_per_step": 4, "optimizer__learning_rate": 1e-2},
        {},
    ]
    runs = trials(bench, tmp_path / "alone", wanted), trials(bench, tmp_path / "together", wanted)
    for trial in (*runs[0], *runs[1]):
        trial["steps"] = 6
    theirs, ours = train(bench, runs[0])["trials"], train(bench, runs[1], slots=[[0], [1], [2]])["trials"]
    for a, b in zip(ours, theirs, strict=True):
        assert furthest(a["losses"], b["losses"]) < TOLERANCE
    assert furthest(ours[0]["losses"], ours[2]["losses"]) > 100 * TOLERANCE
