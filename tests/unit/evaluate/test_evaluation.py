"""Held-out loss against transformers' own forward, the evaluation record, and what is no export."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from fakes import LLAMA, FakeStore, make_tokenizer
from families import tiny_fields
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from raysft.data.store.manifest import write_manifest
from raysft.data.store.packed_rows import Row, pack_rows
from raysft.data.store.parts import write_part
from raysft.errors import DataError, ModelError, StorageError
from raysft.evaluate.evaluation import Evaluation, evaluate_model
from raysft.evaluate.exported import load_exported
from raysft.evaluate.heldout import held_out_loss

ROWS = [[9, 14, 5], [30], [3, 20], [12, 12]]


def make_model() -> LlamaForCausalLM:
    torch.manual_seed(1)
    fields = {k: v for k, v in LLAMA.items() if k != "model_type"}
    return LlamaForCausalLM(LlamaConfig(**fields, vocab_size=260, initializer_range=0.3))


def reference(model: LlamaForCausalLM, rows: list[Row]) -> tuple[float, int]:
    """Each segment alone through transformers, a Python loop over its targets: (mean nll, targets)."""
    nll, count = 0.0, 0
    for row in rows:
        start = 0
        for length in row.segment_fields["length"]:
            ids = torch.tensor(row.token_fields["input_ids"][start : start + length].astype(np.int64))
            target = row.token_fields["target"][start : start + length]
            with torch.no_grad():
                log_probs = model.eval()(input_ids=ids[None]).logits[0].double().log_softmax(-1)
            for t in range(1, int(length)):
                if target[t]:
                    nll -= float(log_probs[t - 1, ids[t]])
                    count += 1
            start += length
    return nll / count, count


@pytest.mark.parametrize("max_rows", [1, 3, 100])
def test_held_out_loss_is_exact_by_token(max_rows: int) -> None:
    model, store = make_model(), FakeStore(ROWS)
    expected, count = reference(model, store.rows[:max_rows])
    found = held_out_loss(model, store, max_rows=max_rows)  # type: ignore[arg-type]
    assert found.loss == pytest.approx(expected, rel=1e-6)
    assert found.perplexity == pytest.approx(math.exp(expected), rel=1e-5)
    assert found.target_tokens == count


@pytest.mark.parametrize("model_type", ["mamba", "gpt_oss"])
def test_samples_that_would_see_each_other_are_computed_alone(model_type: str) -> None:
    torch.manual_seed(1)
    fields = tiny_fields(model_type, 260)
    model: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(fields.pop("model_type"), **fields))
    store: Any = FakeStore(ROWS)
    expected, count = reference(model, store.rows)
    found = held_out_loss(model, store, max_rows=9)
    assert found.loss == pytest.approx(expected, rel=1e-6)
    assert found.target_tokens == count


def test_the_loss_is_no_mean_of_row_means() -> None:
    model, store = make_model(), FakeStore(ROWS)
    means = [reference(model, [row])[0] for row in store.rows]
    found = held_out_loss(model, store, max_rows=9).loss  # type: ignore[arg-type]
    assert abs(found - sum(means) / len(means)) > 1e-3


def test_rows_without_a_target_are_an_error() -> None:
    store = FakeStore([[4, 4]])
    store.rows[0].token_fields["target"][:] = 0
    with pytest.raises(DataError, match="nothing to evaluate"):
        held_out_loss(make_model(), store, max_rows=5)  # type: ignore[arg-type]


def write_store(location: Path, store: FakeStore) -> None:
    """The same rows as a store on disk; every segment is one line."""
    lines: dict[str, list[Any]] = {"sample_id": [], "input_ids": [], "target": []}
    atoms, next_line = [], 0
    for row in store.rows:
        borders = np.cumsum(row.segment_fields["length"])[:-1]
        lines["sample_id"] += row.segment_fields["sample_id"].tolist()
        for field, kind in (("input_ids", np.int32), ("target", np.uint8)):
            lines[field] += [piece.astype(kind) for piece in np.split(row.token_fields[field], borders)]
        atoms.append(np.arange(next_line, next_line + len(borders) + 1))
        next_line += len(borders) + 1
    table = pa.table({**lines, "weight": [1.0] * next_line})
    part = write_part(str(location), 0, pack_rows(table, atoms))
    write_manifest(str(location), {"parts": [part], "max_tokens": 64})


def test_an_evaluation_holds_loss_match_and_ten_samples(tmp_path: Path) -> None:
    model, tokenizer, store = make_model(), make_tokenizer(), FakeStore(ROWS)
    write_store(tmp_path / "store", store)
    questions = [f"question {i}" for i in range(12)]
    first = evaluate_model(
        model,
        tokenizer,
        eval_store=str(tmp_path / "store"),
        prompts=[{"prompt": q, "answer": "nothing"} for q in questions],
        max_rows=2,
        max_new_tokens=5,
    )
    assert first.loss == pytest.approx(reference(model, store.rows[:2])[0], rel=1e-6)
    assert (first.exact_match, first.num_prompts, len(first.samples)) == (0.0, 12, 10)
    assert [sample["prompt"] for sample in first.samples] == questions[:10]
    again = evaluate_model(
        model,
        tokenizer,
        eval_store=None,
        prompts=[{"prompt": s["prompt"], "answer": s["answer"] if i else "x"} for i, s in enumerate(first.samples)],
        max_rows=2,
        max_new_tokens=5,
    )
    assert again.exact_match == 0.9
    assert again.loss is again.perplexity is None
    assert json.loads(json.dumps(first.to_json()))["samples"][0]["reference"] == "nothing"


def test_without_prompts_there_is_no_exact_match(tmp_path: Path) -> None:
    nothing = evaluate_model(
        make_model(), make_tokenizer(), eval_store=None, prompts=[], max_rows=1, max_new_tokens=5
    )
    assert nothing == Evaluation(None, None, 0, None, 0, ())


def test_a_missing_eval_store_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no token store"):
        evaluate_model(
            make_model(),
            make_tokenizer(),
            eval_store=str(tmp_path / "nowhere"),
            prompts=[],
            max_rows=1,
            max_new_tokens=5,
        )


@pytest.fixture
def export(tmp_path: Path) -> Path:
    make_model().to(torch.bfloat16).save_pretrained(tmp_path / "export/merged")  # type: ignore[arg-type]
    make_tokenizer().save_pretrained(tmp_path / "export/merged")
    return tmp_path / "export"


def test_an_export_is_found_by_its_directory_or_its_merged_part(export: Path) -> None:
    for location in (export, export / "merged"):
        model, tokenizer = load_exported(str(location))
        assert model.dtype == torch.bfloat16
        assert len(tokenizer) == len(make_tokenizer())


def test_an_export_at_a_uri_is_copied(export: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(str(export), "/load/export", recursive=True)
    model, _ = load_exported("memory://load/export")
    local, _ = load_exported(str(export))
    assert torch.equal(model.lm_head.weight, local.lm_head.weight)


def test_what_is_no_export_is_told_apart(export: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/adapter_config.json").write_text("{}")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").write_text("")
    (export / "merged/model.safetensors").rename(tmp_path / "weights")
    for location, text in (
        (tmp_path / "nowhere", "no such directory"),
        (tmp_path / "weights", "no directory"),
        (tmp_path / "adapter", "bare adapter"),
        (tmp_path / "other", "no config.json"),
        (export, "without weights"),
    ):
        with pytest.raises(ModelError) as caught:
            load_exported(str(location))
        assert text in str(caught.value)
        assert str(location) in str(caught.value)
        assert caught.value.fix


def test_damaged_weights_are_an_error_and_not_a_crash(export: Path) -> None:
    (export / "merged/model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ModelError, match="no model to evaluate"):
        load_exported(str(export))


def test_a_missing_weight_is_an_error_and_not_a_random_number(export: Path) -> None:
    location = export / "merged/model.safetensors"
    weights = load_file(location)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, location, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="no model to evaluate") as caught:
        load_exported(str(export))
    assert "up_proj" in str(caught.value)
