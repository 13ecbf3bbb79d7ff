"""An export's loss beside that of the training: equal for a right merge, told for a wrong one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commits import save
from fakes import FakeBatch, FakeEngine, FakeGroup, make_recipe, make_tokenizer
from family_rows import FACTS, make_base
from models import local
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from token_stores import examples, write
from transformers import AutoModelForCausalLM
from workers import make_context

from raysft import sealed
from raysft.data.store.manifest import write_manifest
from raysft.data.store.parts import TokenStore
from raysft.model.export_manifest import read_export_manifest
from raysft.objectives.reduce import FirstRows, Reduced
from raysft.run import export_check, remote_tasks
from raysft.run.export_check import check_export, tell_check, what_training_says
from raysft.train.commits.checkpoint import begin_attempt
from raysft.train.history.spans import WorkerSpans
from raysft.train.probe import Probed
from raysft.train.session import Session, run_session
from raysft.train.state import TrainState

ROWS = 3
METHOD = {"kind": "lora", "rank": 4, "alpha": 12.0, "target_modules": ["q_proj", "down_proj"]}


@pytest.fixture
def trained(tmp_path: Path) -> tuple[str, dict[str, Any], float]:
    """(run with a commit of an adapter, its recipe's fields, nats a token of its first rows, not merged)."""
    base, store, run = tmp_path / "base", str(tmp_path / "store"), str(tmp_path / "run")
    make_base("llama", base)
    make_tokenizer().save_pretrained(base)
    write_manifest(store, {"parts": write(store, [examples(12, 1, vocab_size=250)]), "max_tokens": 64})
    config = LoraConfig(r=4, lora_alpha=12, target_modules=METHOD["target_modules"], task_type="CAUSAL_LM")
    model: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
    torch.manual_seed(2)
    state = {"adam_step": torch.tensor(3.0)}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(0.3 * torch.randn_like(parameter))
                state |= {f"{kind}:{name}": parameter.detach().clone() for kind in ("weight", "exp_avg")}
    attempt, _ = begin_attempt(run, FakeGroup())
    save(run, attempt, 5, state)
    recipe = local(base, method=METHOD, train={"precision": "fp32"})
    return run, recipe.model_dump(mode="json"), loss_of(model, store)


@torch.no_grad()
def loss_of(model: Any, store: str) -> float:
    """Each sample by itself, by transformers and peft."""
    nll, weight = 0.0, 0.0
    for row in TokenStore.open(store).read_rows(range(ROWS)):
        borders = np.cumsum(row.segment_fields["length"])[:-1]
        pieces = (np.split(row.token_fields[name], borders) for name in ("input_ids", "target"))
        for ids, target in zip(*pieces, strict=True):
            log_probs = model(input_ids=torch.tensor(ids)[None].long()).logits[0, :-1].log_softmax(-1)
            found = log_probs.gather(-1, torch.tensor(ids[1:]).long()[:, None])[:, 0]
            nll -= float(found.double() @ torch.tensor(target[1:]).double())
            weight += float(target[1:].sum())
    return nll / weight


def asked(run: str, nll: float) -> dict[str, Any]:
    return {"store": str(Path(run).parent / "store"), "rows": ROWS, "nll": nll, "tolerance": 1e-3}


def test_a_merged_adapter_computes_what_the_adapter_does_apart(trained: Any, caplog: Any) -> None:
    run, fields, nll = trained
    remote_tasks.export(fields, run, asdict(FACTS), None, asked(run, nll))
    manifest = read_export_manifest(f"{run}/export")
    assert manifest is not None
    check = manifest["check"]
    assert check == {"rows": ROWS, "in_training": nll, "tolerance": 1e-3, "loss": pytest.approx(nll, abs=1e-4)}
    with caplog.at_level(logging.INFO, "raysft"):
        tell_check(f"{run}/export")
    (record,) = caplog.records
    assert record.levelname == "INFO"
    expected = f"export       loss {check['loss']:.4f}, {nll:.4f} in training, the first 3 held-out rows"
    assert record.getMessage() == expected


def test_a_merge_into_the_wrong_layer_is_told(trained: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    run, fields, nll = trained
    own = remote_tasks.export_run

    def swaps(*arguments: Any, **named: Any) -> list[str]:
        parts = own(*arguments, **named)
        file = Path(parts[-1]) / "model.safetensors"
        tensors = load_file(file)
        one, other = (f"model.layers.{layer}.self_attn.q_proj.weight" for layer in (0, 1))
        save_file(tensors | {one: tensors[other], other: tensors[one]}, file, {"format": "pt"})
        return parts

    monkeypatch.setattr(remote_tasks, "export_run", swaps)
    remote_tasks.export(fields, run, asdict(FACTS), None, asked(run, nll))
    with caplog.at_level(logging.INFO, "raysft"):
        tell_check(f"{run}/export")
    (record,) = [one for one in caplog.records if one.levelname == "WARNING"]
    assert "is not the one that was trained: loss " in record.getMessage()


def test_it_is_asked_once_and_an_export_with_an_answer_is_still_of_its_run(trained: Any) -> None:
    run, fields, nll = trained
    remote_tasks.export(fields, run, asdict(FACTS), None, asked(run, nll))
    file = Path(run) / "export" / "export.json"
    before = file.stat().st_mtime_ns
    remote_tasks.export(fields, run, asdict(FACTS), None, asked(run, nll))
    assert file.stat().st_mtime_ns == before
    remote_tasks.export(fields, run, asdict(FACTS), None, asked(run, nll + 1))
    manifest = read_export_manifest(f"{run}/export")
    assert manifest is not None
    assert manifest["check"]["in_training"] == nll + 1


def fails(store: str, rows: int) -> float:
    raise ValueError(f"no {rows} rows")


@pytest.mark.parametrize(("memory", "word"), [(3.0, "left_out"), (4.0, "problem")])
def test_what_cannot_be_asked_stays_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any, memory: float, word: str
) -> None:
    sealed.write(str(tmp_path / "export.json"), {"files": [{"name": "merged/m", "bytes": 2}]})
    monkeypatch.setattr(export_check, "host_memory", lambda: memory)
    check_export(str(tmp_path), asked(str(tmp_path), 1.0), fails)
    with caplog.at_level(logging.INFO, "raysft"):
        tell_check(str(tmp_path))
    (record,) = caplog.records
    assert {"left_out": "do not fit into the memory", "problem": "ValueError: no 3 rows"}[word] in record.getMessage()
    assert (record.levelname == "WARNING") == (word == "problem")


@pytest.mark.parametrize(
    ("first", "expected"), [(FirstRows(4, 2.0), 2e-3), (FirstRows(4, float("nan")), None), (None, None)]
)
def test_what_training_says_is_of_the_newest_commit(
    tmp_path: Path, first: FirstRows | None, expected: float | None
) -> None:
    recipe, run = make_recipe(data={"eval": "e.jsonl"}, train={"precision": "fp32"}), str(tmp_path)
    context = make_context(run, FakeGroup(), total_steps=2)
    begun, _ = begin_attempt(run, context.group)

    def evaluate(beat: Callable[[], None]) -> dict[str, Reduced]:
        return {"held_out": Reduced(2.0, {"nll": 2.0}, {}, {"nll": 4.0}, 4.0, first)}

    spans = WorkerSpans(run, begun.number, is_writer=True)
    session = Session(FakeEngine(), lambda step: FakeBatch(), evaluate, TrainState(), Probed(1, 0.5))
    run_session(context, begun, session, spans, lambda step: None)
    spans.close()
    found = what_training_says(run, recipe, {"held_out": "s"})
    assert found == (expected and {"store": "s", "rows": 4, "nll": 2.0, "tolerance": expected})
    assert what_training_says(run, recipe, {}) is None
