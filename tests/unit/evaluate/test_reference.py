"""Reference columns against transformers' own forward of each sample alone, with torch's log_softmax."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import GEMMA2, LLAMA, FakeStore, make_tokenizer
from family_rows import make_base
from models import local
from objective_rows import row as made_row
from transformers import AutoConfig, AutoModelForCausalLM

from raysft.data.feed.collate import IGNORE, collate
from raysft.data.store.packed_rows import Row
from raysft.errors import ModelError
from raysft.evaluate import reference
from raysft.evaluate.heldout import held_out_loss, preferred
from raysft.evaluate.reference import load_reference, reference_values
from raysft.model.fast.start_check import use_fast_paths
from raysft.model.spread import CPU, Room, unlimited
from raysft.recipe.columns import REFERENCE_LOG_PROB, WANTED, reference_top_k

ROWS = [[9, 14, 5], [30], [3, 20], [12, 12, 1], [2, 40]]
VOCABULARY = 260
K = 5


def make_model(fields: dict[str, Any]) -> Any:
    torch.manual_seed(1)
    config = AutoConfig.for_model(**fields, vocab_size=VOCABULARY, initializer_range=0.3)
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager")


def samples_of(rows: list[Row]) -> Iterator[tuple[torch.Tensor, np.ndarray]]:
    """(ids, target) of every sample, in order."""
    for row in rows:
        borders = np.cumsum(row.segment_fields["length"])[:-1]
        ids = np.split(row.token_fields["input_ids"].astype(np.int64), borders)
        yield from zip(map(torch.tensor, ids), np.split(row.token_fields["target"], borders), strict=True)


def expected(model: Any, rows: list[Row]) -> tuple[list[float], list[np.ndarray]]:
    """(log p of the trained tokens of each sample, log p of all tokens where each token is predicted)."""
    sums, of_tokens = [], []
    for ids, target in samples_of(rows):
        with torch.no_grad():
            log_probs = model(input_ids=ids[None]).logits[0].double().log_softmax(-1)
        sums.append(float(sum(log_probs[t - 1, ids[t]] for t in range(1, len(ids)) if target[t])))
        of_tokens.append(log_probs[:-1].numpy())
    return sums, of_tokens


def asked(model: Any, rows: list[Row], fields: Any, *, size: int = 2, packing: bool = True) -> dict[str, np.ndarray]:
    batches = iter([rows[start : start + size] for start in range(0, len(rows), size)])
    found = [values for _, values in reference_values(model, batches, fields, packing=packing)]
    return {field.name: np.concatenate([values[field.name] for values in found]) for field in fields}


@pytest.mark.parametrize("fields", [LLAMA, GEMMA2], ids=["llama", "gemma2"])
@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("chunk", [256, 7])
def test_columns_are_what_the_model_says_of_each_sample_alone(
    fields: dict[str, Any], packing: bool, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "_CHUNK", chunk)
    model, rows = make_model(fields).eval(), FakeStore(ROWS).rows
    sums, of_tokens = expected(model, rows)
    if fields is LLAMA:  # as load_reference does it; eager attention of gemma2 has no faster one
        model.set_attn_implementation("sdpa")
    use_fast_paths(model, VOCABULARY, packing=packing, max_tokens=64)
    found = asked(model, rows, (REFERENCE_LOG_PROB, *reference_top_k(K)), packing=packing)
    assert found["reference_log_prob"] == pytest.approx(sums, rel=1e-5, abs=1e-5)
    lengths = [len(ids) for ids, _ in samples_of(rows)]
    ids, log_probs = (
        np.split(found[name], np.cumsum(lengths)[:-1]) for name in ("reference_ids", "reference_log_probs")
    )
    for own_ids, own, theirs in zip(ids, log_probs, of_tokens, strict=True):
        assert not own_ids[0].any()
        assert not own[0].any()
        best = np.argsort(-theirs, axis=1)[:, :K]
        assert own[1:] == pytest.approx(np.take_along_axis(theirs, best, 1), abs=1e-5)
        assert np.take_along_axis(theirs, own_ids[1:].astype(np.int64), 1) == pytest.approx(own[1:], abs=1e-5)


def test_what_stands_at_a_label_in_a_micro_batch_predicts_that_label() -> None:
    """Columns, stored by token, and labels, moved one place to the left, meet again in collate."""
    model, rows = make_model(LLAMA).eval(), FakeStore(ROWS).rows
    fields = reference_top_k(VOCABULARY)
    found = asked(model, rows, fields)
    ends = np.cumsum([row.num_tokens for row in rows])[:-1]
    for field in fields:
        for row, values in zip(rows, np.split(found[field.name], ends), strict=True):
            row.token_fields[field.name] = values
    batch = collate(rows, 0, packing=True, fields=fields)
    wanted = batch.labels >= 0
    is_label = batch.fields["reference_ids"][wanted] == batch.labels[wanted][:, None]
    assert (is_label.sum(axis=1) == 1).all()
    of_labels = batch.fields["reference_log_probs"][wanted][is_label]
    assert of_labels.sum(dtype=np.float64) == pytest.approx(sum(expected(model, rows)[0]), rel=1e-5)


def test_more_likeliest_tokens_than_there_are_is_an_error() -> None:
    with pytest.raises(ModelError, match=r"kl_top_k: 261(.|\n)*at most 260"):
        asked(make_model(LLAMA), FakeStore(ROWS).rows, reference_top_k(VOCABULARY + 1))


def test_a_model_that_gives_no_numbers_is_an_error() -> None:
    model = make_model(LLAMA)
    with torch.no_grad():
        model.lm_head.weight[3] = float("nan")
    with pytest.raises(ModelError, match=r"reference_log_prob of the samples 100 to 103"):
        asked(model, FakeStore(ROWS).rows, (REFERENCE_LOG_PROB,))


@pytest.mark.parametrize("model_type", ["llama", "gemma2"])
def test_of_pairs_the_held_out_loss_is_that_of_the_preferred_answers(model_type: str) -> None:
    model, store = (
        make_model(LLAMA if model_type == "llama" else GEMMA2).eval(),
        FakeStore([[9, 14], [30, 2], [5, 7, 3, 20]]),
    )
    for row in store.rows:
        row.segment_fields["atom"] = np.arange(len(row.segment_fields["length"])) // 2
    sums, _ = expected(model, store.rows)
    targets = [int(np.count_nonzero(target[1:])) for _, target in samples_of(store.rows)]
    found = held_out_loss(model, store, max_rows=9)  # type: ignore[arg-type]
    assert found.loss == pytest.approx(-sum(sums[::2]) / sum(targets[::2]), rel=1e-6)
    assert found.target_tokens == sum(targets[::2])
    assert found.of_pairs
    assert not held_out_loss(model, FakeStore(ROWS), max_rows=9).of_pairs  # type: ignore[arg-type]


def test_of_judged_answers_the_wanted_ones_count() -> None:
    fields = (WANTED,)
    given = made_row([5, 3, 4, 6], (), 1)
    batch = collate([replace(given, atom_fields={"wanted": np.array([0.0, 1.0])})], 0, packing=True, fields=fields)
    found = preferred(batch)
    owners = set(batch.segment_of[found.labels != IGNORE].tolist())
    assert owners == {2}, "neither the unwanted answer nor those that answer something else"


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "qwen3"])
def test_a_model_in_files_says_what_it_says_whole(tmp_path: Path, model_type: str) -> None:
    """In fp32 what transformers says of each sample alone; in bf16 the bits of a model that a worker loads whole."""
    make_base(model_type, tmp_path / "base")
    (tmp_path / "files").mkdir()
    tokenizer, rows, fields = make_tokenizer(), FakeStore(ROWS).rows, (REFERENCE_LOG_PROB, *reference_top_k(K))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "base", attn_implementation="eager").float().eval()
    layers = sum(p.numel() for name, p in theirs.named_parameters() if ".layers." in name)
    for precision, size in (("fp32", 4), ("bf16", 2)):
        recipe = local(tmp_path / "base", train={"precision": precision})
        tight = Room({CPU: size * (theirs.num_parameters() - 0.3 * layers)}, folder=str(tmp_path / "files"))
        models = [load_reference(recipe, tokenizer, room) for room in (tight, unlimited(CPU))]
        assert [any(p.is_meta for p in model.parameters()) for model in models] == [True, False]
        models.append(reference._load_whole(recipe, tokenizer, CPU))
        found = [asked(model, rows, fields) for model in models]
        for name, values in found[0].items():
            for other in found[1:]:
                assert np.array_equal(values, other[name]), (precision, name)
        if precision == "fp32":
            assert found[0]["reference_log_prob"] == pytest.approx(expected(theirs, rows)[0], rel=1e-5, abs=1e-5)
