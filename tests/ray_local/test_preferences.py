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


def test_the_loss_is_that_of_the_exported_model_against_the_untrained_one(ray_cluster: None, tmp_path: Path) -> None:
    records = [json.loads(line) for line in make_records(tmp_path / "words.jsonl", 40).read_text().splitlines()]
    lines = [{"prompt": r["instruction"], "chosen": r["output"], "rejected": r["output"] + "x"} for r in records]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    recipe = change(
        make_recipe(tmp_path, train__max_steps=4, cluster__workers=1, parallel__zero=0),
        {
            "objective": {"kind": "dpo", "beta": BETA},
            "data.train": str(tmp_path / "pairs.jsonl"),
            "data.eval_fraction": 0.2,
            "evaluate.every_steps": 4,
        },
    )
    result = run_training(recipe)
    first, last = [line for line in read_metrics(result.run) if line["kind"] == "eval"]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert first["perplexity"] is None
    tokenizer = recipe_tokenizer(recipe)
    untrained = load_model(recipe, vocab_size=rows_for(tokenizer)).eval()
    model = AutoModelForCausalLM.from_pretrained(result.exports[0], dtype=torch.float32).eval()
    (held_out,) = [
        path.parent for path in (tmp_path / "storage" / "tokens").glob("*/prompts.jsonl") if path.stat().st_size
    ]
    store, losses = TokenStore.open(str(held_out)), []
    for row in store.read_rows(range(store.num_rows)):
        ends = np.cumsum(row.segment_fields["length"])[:-1]
        pieces = zip(
            np.split(row.token_fields["input_ids"], ends), np.split(row.token_fields["target"], ends), strict=True
        )
        gains = [gain(model, untrained, *piece) for piece in pieces]
        losses += [math.log1p(math.exp(-BETA * (a - b))) for a, b in zip(gains[::2], gains[1::2], strict=True)]
    assert last["loss"] == pytest.approx(sum(losses) / len(losses), abs=1e-5)
    assert abs(last["loss"] - first["loss"]) > 1e-4
    assert result.after is not None
    assert result.after["of_pairs"]
