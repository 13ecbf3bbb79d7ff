"""Preference tuning through Ray: from pairs and an untrained model to a loss that plain transformers gives, too."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import make_recipe, make_records
from transformers import AutoModelForCausalLM

from raysft.data.store.parts import TokenStore
from raysft.data.text.tokenizer import recipe_tokenizer
from raysft.model.load import load_model, rows_for
from raysft.recipe.change import change
from raysft.run.run import run_training
from raysft.train.commits.layout import read_commits
from raysft.train.history.records import read_metrics

BETA = 0.3


def gain(model: Any, untrained: Any, ids: np.ndarray, target: np.ndarray) -> float:
    """log p - log p of the untrained model, over the trained tokens."""
    tokens = torch.tensor(ids.astype(np.int64))
    sums = []
    for one in (model, untrained):
        with torch.no_grad():
            log_probs = one(input_ids=tokens[None]).logits[0].double().log_softmax(-1)
        sums.append(sum(float(log_probs[t - 1, tokens[t]]) for t in range(1, len(ids)) if target[t]))
    return sums[0] - sums[1]


def plain_loss(model: Any, untrained: Any, store: TokenStore) -> float:
    """The mean of DPO's loss over the pairs of a store, by plain transformers."""
    losses = []
    for row in store.read_rows(range(store.num_rows)):
        ends = np.cumsum(row.segment_fields["length"])[:-1]
        pieces = zip(
            np.split(row.token_fields["input_ids"], ends), np.split(row.token_fields["target"], ends), strict=True
        )
        gains = [gain(model, untrained, *piece) for piece in pieces]
        losses += [math.log1p(math.exp(-BETA * (a - b))) for a, b in zip(gains[::2], gains[1::2], strict=True)]
    return sum(losses) / len(losses)


def write_pairs(path: Path, count: int, seed: int) -> str:
    records = [json.loads(line) for line in make_records(path, count, seed).read_text().splitlines()]
    lines = [{"prompt": r["instruction"], "chosen": r["output"], "rejected": r["output"] + "x"} for r in records]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def test_losses_of_every_set_are_those_of_the_exported_model(ray_cluster: None, tmp_path: Path) -> None:
    """The held-out pairs and those of a set of their own; the second set has its own reference columns."""
    recipe = change(
        make_recipe(tmp_path, train__max_steps=4, cluster__workers=1, parallel__zero=0),
        {
            "objective": {"kind": "dpo", "beta": BETA},
            "data.train": write_pairs(tmp_path / "pairs.jsonl", 40, 0),
            "data.eval_fraction": 0.2,
            "evaluate.every_steps": 2,
            "evaluate.sets": {
                "dev": {
                    "data": [write_pairs(tmp_path / "dev.jsonl", 7, 1)],
                    "metrics": ["loss", "exact_match"],
                    "prompts": 2,
                }
            },
            "checkpoint.every_steps": 2,
            "checkpoint.keep_last": 1,
            "checkpoint.keep_best_by": "dev/margin",
        },
    )
    result = run_training(recipe)
    first, middle, last = [line for line in read_metrics(result.run) if line["kind"] == "eval"]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5) == first["sets"]["dev"]["loss"]
    assert first["perplexity"] is first["sets"]["dev"]["perplexity"] is None
    tokenizer = recipe_tokenizer(recipe)
    untrained = load_model(recipe, vocab_size=rows_for(tokenizer)).eval()
    model = AutoModelForCausalLM.from_pretrained(result.exports[0], dtype=torch.float32).eval()
    prompts = (tmp_path / "storage" / "tokens").glob("*/prompts.jsonl")
    found = [TokenStore.open(str(path.parent)) for path in prompts if path.stat().st_size]
    stores = {
        sum(len(row.segment_fields["length"]) for row in one.read_rows(range(one.num_rows))): one for one in found
    }
    dev = stores.pop(14)  # two samples of each pair
    (held_out,) = stores.values()
    assert last["loss"] == pytest.approx(plain_loss(model, untrained, held_out), abs=1e-5)
    assert last["sets"]["dev"]["loss"] == pytest.approx(plain_loss(model, untrained, dev), abs=1e-5)
    assert abs(last["loss"] - first["loss"]) > 1e-4
    assert abs(last["loss"] - last["sets"]["dev"]["loss"]) > 1e-6
    assert result.after is not None
    assert [*result.after] == ["held_out", "dev"]
    assert result.after["held_out"]["of_pairs"]
    assert result.after["dev"]["metrics"]["exact_match"]["count"] == result.after["dev"]["num_prompts"] == 2
    margins = {line["step"]: line["sets"]["dev"]["metrics"]["margin"] for line in (middle, last)}
    kept = {commit.step for commit in read_commits(result.run)}
    assert kept == {4, max(margins, key=margins.__getitem__)}
