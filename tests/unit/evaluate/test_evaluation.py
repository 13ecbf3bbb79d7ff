"""Held-out loss against transformers' own forward, the evaluation record, and what is no export."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from answered import HOW, Parrot, write_store
from fakes import LLAMA, FakeStore, make_tokenizer
from families import tiny_fields
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from raysft.data.store.packed_rows import Row
from raysft.data.store.parts import TokenStore
from raysft.errors import DataError, ModelError
from raysft.evaluate.evaluation import Share, evaluate_model, evaluate_share, evaluation_of
from raysft.evaluate.exported import load_exported
from raysft.evaluate.heldout import Targets, count_targets, held_out_loss, perplexity_of
from raysft.model import twin
from raysft.model.fast.start_check import check_isolation
from raysft.model.twin import keeps_samples_apart
from raysft.recipe.evaluation_sets import SetPlan

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
    assert perplexity_of(found.loss) == pytest.approx(math.exp(expected), rel=1e-5)
    assert found.target_tokens == count
    assert count_targets(store, max_rows=max_rows) == Targets(count, float(count))  # type: ignore[arg-type]


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


def test_the_interval_is_that_of_resampled_rows() -> None:
    model, store = make_model(), FakeStore([[9, 14, 5], [30], [3, 20], [12, 12], [7], [8, 9], [21, 4], [5, 5, 5]])
    each = [reference(model, [row]) for row in store.rows]
    dice, means = np.random.default_rng(0), []
    for _ in range(4000):
        drawn = [each[i] for i in dice.integers(0, len(each), len(each))]
        means.append(sum(mean * count for mean, count in drawn) / sum(count for _, count in drawn))
    low, high = np.quantile(means, (0.025, 0.975))
    found = held_out_loss(model, store, max_rows=99)  # type: ignore[arg-type]
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.loss < found.high
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.15 * (high - low))
    alone = held_out_loss(model, store, max_rows=1)  # type: ignore[arg-type]
    assert (alone.low, alone.high) == (None, None)


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
    with pytest.raises(DataError, match="nothing to evaluate"):
        count_targets(store, max_rows=5)  # type: ignore[arg-type]


def test_each_set_has_its_own_rows_prompts_and_metrics(tmp_path: Path) -> None:
    model, stores = make_model(), {"held_out": FakeStore(ROWS), "dev": FakeStore([[7, 7], [11], [5, 4, 3]])}
    questions = [{"sample_id": i, "prompt": f"q{i}", "answer": f" q{i}\n" if i else "other"} for i in range(12)]
    for name, store in stores.items():
        write_store(tmp_path / name, store, questions)
    opened = {name: TokenStore.open(str(tmp_path / name)) for name in stores}
    plans = {"held_out": SetPlan(("loss",), 0, 2), "dev": SetPlan(("loss", "exact_match"), 10, 3)}
    found = evaluate_model(model, Parrot(), HOW, {name: (opened[name], plans[name]) for name in stores})
    for name, rows in (("held_out", 2), ("dev", 3)):
        loss, count = reference(model, stores[name].rows[:rows])
        told = found[name]["metrics"]["loss"]
        assert (told["value"], told["count"]) == (pytest.approx(loss, rel=1e-6), count)
        assert found[name]["metrics"]["perplexity"]["value"] == pytest.approx(math.exp(loss), rel=1e-5)
    assert found["held_out"]["metrics"].keys() == {"loss", "perplexity"}
    assert (found["held_out"]["num_prompts"], found["held_out"]["samples"]) == (0, [])
    match = found["dev"]["metrics"]["exact_match"]
    assert (match["value"], match["count"], found["dev"]["num_prompts"]) == (0.9, 10, 10)
    assert match["low"] < 0.9 < match["high"]
    assert found["dev"]["samples"][0] == {"prompt": "q0", "answer": "q0", "reference": "other"}
    assert json.loads(json.dumps(found)) == found
    sets = {name: (opened[name], plans[name]) for name in stores}
    for parts in (2, 3, 20):  # more than there are rows, and than prompts
        shares = [evaluate_share(model, Parrot(), HOW, sets, share=Share(part, parts)) for part in range(parts)]
        assert evaluation_of(json.loads(json.dumps(shares)), plans) == found


def test_a_set_of_answers_alone_computes_no_rows(tmp_path: Path) -> None:
    store = FakeStore(ROWS)
    for row in store.rows:
        row.token_fields["target"][:] = 0
    write_store(tmp_path / "store", store, [{"sample_id": 0, "prompt": "q0", "answer": "q0"}])
    opened = TokenStore.open(str(tmp_path / "store"))
    found = evaluate_model(make_model(), Parrot(), HOW, {"dev": (opened, SetPlan(("exact_match",), 5, 9))})["dev"]
    assert {name: one["value"] for name, one in found["metrics"].items()} == {"exact_match": 1.0}


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


def test_rounding_in_bf16_is_no_leak_between_packed_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check is made for fp32; how large rounding is depends on the machine's kernels. Its kind is asked."""
    model, store = make_model().to(torch.bfloat16), FakeStore(ROWS)
    asked = []

    def check(of: LlamaForCausalLM, vocab_size: int) -> float:
        asked.append(of.dtype)
        return 0.1 if of.dtype == torch.bfloat16 else check_isolation(of, vocab_size)

    monkeypatch.setattr(twin, "check_isolation", check)
    assert keeps_samples_apart(model)
    assert asked == [torch.float32]
    found = held_out_loss(model, store, max_rows=9)  # type: ignore[arg-type]
    expected, count = reference(make_model(), store.rows)
    assert found.target_tokens == count
    assert found.loss == pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize("model_type", ["mamba", "gpt_oss"])
def test_in_bf16_too_a_kind_that_leaks_is_known(model_type: str) -> None:
    torch.manual_seed(1)
    fields = tiny_fields(model_type, 260)
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    assert not keeps_samples_apart(AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16))
