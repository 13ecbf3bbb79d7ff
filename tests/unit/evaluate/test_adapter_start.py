"""EVA's directions against numpy's decomposition of all inputs, sample by sample, in a plain model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import FakeStore, make_recipe
from families import LLAMA
from transformers import AutoConfig, AutoModelForCausalLM

from raysft.errors import ModelError
from raysft.evaluate.adapter_start import input_directions
from raysft.model.load import load_model
from raysft.model.methods import apply_method, set_start, start_tensors

IDS = torch.arange(20).reshape(2, 10)


def test_directions_of_eva_are_those_of_all_inputs_and_the_model_computes_what_it_did(tmp_path: Path) -> None:
    torch.manual_seed(3)
    config = AutoConfig.for_model(**LLAMA, vocab_size=264, initializer_range=0.2, pad_token_id=0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    recipe = make_recipe(
        model={"source": str(tmp_path), "config": None, "tokenizer": None},
        method={"kind": "lora", "rank": 4, "init": "eva", "target_modules": ["q_proj", "v_proj", "down_proj"]},
    )
    module = apply_method(load_model(recipe, vocab_size=264), recipe)
    rows = FakeStore([[9, 14, 5], [30], [3, 20], [12, 12, 1], [2, 40]]).rows
    found = input_directions(module, recipe, recipe.method, [rows[:2], rows[2:]])
    given: dict[str, list[np.ndarray]] = {}
    plain = AutoModelForCausalLM.from_pretrained(recipe.model.source, dtype=torch.float32)
    for name in found:
        plain.get_submodule(name).register_forward_pre_hook(
            lambda _, x, name=name: given.setdefault(name, []).append(x[0][0].numpy())
        )
    with torch.no_grad():
        for row in rows:
            borders = np.cumsum(row.segment_fields["length"])[:-1]
            for ids in np.split(row.token_fields["input_ids"].astype(np.int64), borders):
                plain(input_ids=torch.tensor(ids)[None])
    for name, directions in found.items():
        wanted = np.linalg.svd(np.concatenate(given[name]).astype(np.float64))[2][:4]
        np.testing.assert_allclose(np.abs(directions.numpy() @ wanted.T), np.eye(4), atol=1e-3)
    set_start(module, start_tensors(module, recipe.method, found))
    with torch.no_grad():
        assert torch.equal(module.eval()(input_ids=IDS).logits, plain.eval()(input_ids=IDS).logits)
    with pytest.raises(ModelError, match="too few directions"):
        input_directions(module, recipe, recipe.method, [FakeStore([[2]]).rows])
