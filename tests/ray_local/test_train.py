"""Training through Ray: the same curve as without, whatever the split; what a run leaves; running it again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small import make_recipe
from transformers import AutoModelForCausalLM, AutoTokenizer

from raysft.data.prepare.prepare import prepare
from raysft.errors import ConflictError
from raysft.evaluate.evaluation import evaluation_of
from raysft.model.load import load_model
from raysft.recipe.evaluation_sets import evaluation_sets
from raysft.recipe.schema import Recipe
from raysft.run.remote_tasks import evaluate_exported, evaluate_initial, newest_checkpoint
from raysft.run.run import RunResult, run_training
from raysft.train.history.records import read_ledger, read_metrics

TOLERANCE = 1e-5
STEPS = 20


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("train")


def recipe(directory: Path, name: str, **changes: Any) -> Recipe:
    fields = {"train__max_steps": STEPS, "parallel__zero": 0, "cluster__workers": 1, "train__micro_batch_rows": 1}
    return make_recipe(directory, name=name, **(fields | changes))


def losses(result: RunResult) -> list[float]:
    return [line["loss"] for line in read_metrics(result.run) if line["kind"] == "step"]


@pytest.fixture(scope="module")
def base(ray_cluster: None, directory: Path) -> RunResult:
    return run_training(recipe(directory, "base"), profile_steps=2)


@pytest.fixture(scope="module")
def lora_zero3(ray_cluster: None, directory: Path) -> RunResult:
    """Everything at once: adapters, ZeRO 3, two workers, bf16, held-out data, generation."""
    changes: dict[str, Any] = {
        "method": {"kind": "lora", "rank": 4},
        "parallel__zero": 3,
        "cluster__workers": 2,
        "train__precision": "bf16",
        "train__gradient_checkpointing": True,
        "train__deterministic": True,
        "data__eval_fraction": 0.2,
        "evaluate": {"every_steps": 10, "generate_prompts": 40, "max_new_tokens": 8},  # two tasks share them
    }
    return run_training(recipe(directory, "lora", **changes))


def test_every_step_tells_its_cost_and_the_trace_lies_in_the_run(base: RunResult) -> None:
    start, *lines = [line for line in read_metrics(base.run) if line["kind"] != "eval"]
    assert (start["kind"], start["micro_batch_rows"]) == ("start", 1)
    assert start["probe_s"] > 0
    assert start["peak_flops"] > 1e9
    for line in lines:
        whole = line["data_wait_s"] + line["forward_backward_s"] + line["update_s"]
        assert whole == pytest.approx(line["step_s"], rel=1e-6)
        assert 0 < line["mfu"] == pytest.approx(line["flops"] / line["step_s"] / start["peak_flops"], abs=1e-4)
        assert line["target_tokens_per_s"] < line["tokens_per_s"]
        assert line["peak_bytes"] > 2**27  # torch alone
    (trace,) = base.profiles
    assert trace.startswith(base.run)
    assert any(event.get("name") == "aten::mm" for event in json.loads(Path(trace).read_text())["traceEvents"])


def held_out_loss(evaluation: dict[str, Any] | None) -> float:
    assert evaluation is not None
    found: float = evaluation["held_out"]["metrics"]["loss"]["value"]
    return found


@pytest.mark.parametrize(
    "changes",
    [
        {"parallel__zero": 3, "cluster__workers": 2},
        {"train__micro_batch_rows": 4, "parallel__zero": 2},
        {"parallel__pipeline": 2, "cluster__workers": 2, "parallel__zero": 1},
    ],
    ids=["two workers, ZeRO 3", "micro-batch 4, ZeRO 2", "two stages"],
)
def test_one_curve_through_ray(base: RunResult, directory: Path, changes: dict[str, Any]) -> None:
    name = "-".join(str(value) for value in changes.values())
    other = losses(run_training(recipe(directory, f"split-{name}", **changes)))
    mine = losses(base)
    assert len(mine) == len(other) == STEPS
    assert mine[-1] < 0.8 * mine[0]
    assert max(abs(a - b) / a for a, b in zip(mine, other, strict=True)) < TOLERANCE


@pytest.mark.parametrize("axis", ["pipeline", "tensor", "sequence"])
def test_a_split_model_evaluates_and_exports_as_others_do(ray_cluster: None, directory: Path, axis: str) -> None:
    """What the workers measured on held-out rows is what the exported model, whole again, loses on them."""
    changes: dict[str, Any] = {
        "method": {"kind": "lora", "rank": 4, "target_modules": "all-linear"},
        "parallel": {axis: 2, "zero": 0},
        "cluster__workers": 2,
        "data__eval_fraction": 0.2,
        "evaluate": {} if axis == "tensor" else {"generate_prompts": 2, "max_new_tokens": 4},
    }
    wanted = recipe(directory, f"split-{axis}", **changes)
    result = run_training(wanted)
    if axis == "tensor":  # losses alone: no task has held the model, and one would find the same
        fields, stores = wanted.model_dump(mode="json"), prepare(wanted).eval_stores
        merged = next(export for export in result.exports if export.endswith("merged"))
        shares = evaluate_initial(fields, stores, (0, 1)), evaluate_exported(fields, stores, (0, 1), merged)
        untrained, trained = (evaluation_of([share], evaluation_sets(wanted)) for share in shares)
        for ours, theirs in ((result.before, untrained), (result.after, trained)):
            assert held_out_loss(ours) == pytest.approx(held_out_loss(theirs), rel=1e-6)
            assert ours is not None
            assert ours["held_out"]["metrics"]["loss"]["count"] == theirs["held_out"]["metrics"]["loss"]["count"] > 0
    told = {line["step"]: line["loss"] for line in read_metrics(result.run) if line["kind"] == "eval"}
    before, after = held_out_loss(result.before), held_out_loss(result.after)
    assert told[0] == pytest.approx(before, rel=TOLERANCE)
    assert told[STEPS] == pytest.approx(after, rel=TOLERANCE)
    assert after < before
    steps = read_ledger(result.run)
    assert sorted(steps) == list(range(1, STEPS + 1))
    assert all(len(ids) == len(set(ids)) > 0 for ids in steps.values())  # a replica's ranks tell its samples once


def test_full_export_loads_in_plain_transformers(base: RunResult) -> None:
    (export,) = base.exports
    model = AutoModelForCausalLM.from_pretrained(export, use_safetensors=True)
    weights = dict(newest_checkpoint(base.run).weights())
    state = model.state_dict()
    assert all(torch.equal(state[name], weight) for name, weight in weights.items())
    tokenizer = AutoTokenizer.from_pretrained(export)
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "x"}], tokenize=False, add_generation_prompt=True
    )
    assert chat.endswith("<|im_start|>assistant\n")


def test_merged_and_adapter_out_of_zero_3_agree(lora_zero3: RunResult, directory: Path) -> None:
    from peft import PeftModel

    adapter, merged = sorted(lora_zero3.exports)
    model = AutoModelForCausalLM.from_pretrained(merged)
    assert model.dtype == torch.bfloat16
    initial = load_model(recipe(directory, "lora"), vocab_size=model.config.vocab_size)  # `random`, by the seed
    adapted = PeftModel.from_pretrained(initial, adapter).merge_and_unload()
    ours, theirs = dict(model.named_parameters()), dict(adapted.named_parameters())
    assert ours.keys() == theirs.keys()
    for name, weight in theirs.items():
        assert torch.equal(weight.to(torch.bfloat16), ours[name]), name
    weights = dict(newest_checkpoint(lora_zero3.run).weights())
    assert all(tensor.numel() > 0 for tensor in weights.values())
    assert any("lora_B" in name and tensor.abs().max() > 0 for name, tensor in weights.items())


def test_what_a_run_leaves(lora_zero3: RunResult) -> None:
    run = Path(lora_zero3.run)
    page = (run / "report.html").read_text()
    assert "lora" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    card = (Path(lora_zero3.exports[0]) / "README.md").read_text()
    assert json.loads((run / "run.json").read_text())["fingerprints"]["data"][:12] in card
    evals = [line["step"] for line in read_metrics(lora_zero3.run) if line["kind"] == "eval"]
    assert evals == [0, 10, 20]
    assert held_out_loss(lora_zero3.after) < held_out_loss(lora_zero3.before)
    assert not list(run.rglob("*.bin")) + list(run.rglob("*.pt")) + list(run.rglob("*.pkl"))
    assert len(read_ledger(lora_zero3.run)) == STEPS
    assert not (run / "ray").exists()


def test_a_finished_run_changes_nothing(base: RunResult, directory: Path) -> None:
    files = sorted(path for path in Path(base.run).rglob("*") if path.is_file())
    before = [(path, path.stat().st_mtime_ns) for path in files]
    again = run_training(recipe(directory, "base"))
    assert again.was_finished
    assert [(path, path.stat().st_mtime_ns) for path in files] == before


def test_a_run_name_with_another_recipe_is_refused(base: RunResult, directory: Path) -> None:
    with pytest.raises(ConflictError, match=r"exists with another recipe") as refused:
        run_training(recipe(directory, "base", optimizer={"learning_rate": 1e-5}))
    assert "optimizer.learning_rate: 0.003 -> 1e-05" in str(refused.value)
