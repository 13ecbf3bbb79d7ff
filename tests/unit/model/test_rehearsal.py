"""What is tried and said before a run starts: adapters, experts, towers, configs that cannot be saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fakes import LLAMA, make_recipe, make_tokenizer
from models import fresh, local
from transformers import AutoConfig, AutoModelForCausalLM

from raysft.errors import ModelError
from raysft.model.facts import read_facts
from raysft.model.rehearsal import rehearse
from raysft.model.twin import refuse_packing
from raysft.recipe.schema import Recipe

LORA = {"kind": "lora", "rank": 4}


def test_it_tells_how_many_parameters_are_trained() -> None:
    (line,) = rehearse(make_recipe(), make_tokenizer())
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**LLAMA, vocab_size=len(make_tokenizer())))
    total = sum(p.numel() for p in model.parameters())
    assert line == f"trained      {total:,} of {total:,} parameters (100.00%)"
    lines = rehearse(make_recipe(method=LORA | {"target_modules": ["q_proj", "down_proj"]}), make_tokenizer())
    trained = 2 * 4 * ((32 + 32) + (48 + 32))  # layers x rank x (in + out)
    assert (
        lines[0] == f"trained      {trained:,} of {total + trained:,} parameters ({trained / (total + trained):.2%})"
    )
    assert lines[1] == "adapters     down_proj x 2, q_proj x 2"
    added = "4 added tokens (<|endoftext|>, <|pad|>, <|im_start|>, ...)"
    served = "adapter      peft loads it; vLLM, too"
    assert lines[2:] == [f"frozen       embeddings and head: rows of {added} stay as the base has them", served]
    lines = rehearse(make_recipe(method=LORA | {"target_modules": ["embed_tokens"]}), make_tokenizer())
    assert lines[1:] == ["adapters     embed_tokens x 1", served]


def test_it_tells_what_muon_moves_and_what_it_leaves() -> None:
    _, muon, adamw = rehearse(make_recipe(optimizer={"kind": "muon"}), make_tokenizer())
    attention = "k_proj.weight x 2, o_proj.weight x 2, q_proj.weight x 2"
    mlp = "down_proj.weight x 2, gate_proj.weight x 2"
    assert muon == f"muon         14 parameters: {mlp}, {attention}, up_proj.weight x 2, v_proj.weight x 2"
    norms = "input_layernorm.weight x 2, lm_head.weight, norm.weight, post_attention_layernorm.weight x 2"
    assert adamw == f"adamw        7 parameters: embed_tokens.weight, {norms}"
    still = make_recipe(optimizer={"kind": "muon"}, method={"kind": "freeze", "layers": 0, "parameters": ["*norm*"]})
    with pytest.raises(ModelError, match="no matrix to move"):
        rehearse(still, make_tokenizer())


def test_a_tokenizer_that_cannot_be_saved_is_refused_before_training(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.init_kwargs["extra"] = object()  # what JSON does not know
    with pytest.raises(ModelError, match="could be trained, but not exported") as caught:
        rehearse(make_recipe(), tokenizer)
    assert "TypeError" in caught.value.got


@pytest.mark.parametrize("text", ["{", '{"num_return_sequences": 3}', "[]"])
def test_a_generation_config_that_transformers_does_not_read_is_told(tmp_path: Path, text: str) -> None:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**LLAMA, vocab_size=300))
    model.save_pretrained(tmp_path / "base")
    (tmp_path / "base/generation_config.json").write_text(text)
    with pytest.raises(ModelError):
        rehearse(local(tmp_path / "base"), make_tokenizer())


@pytest.mark.parametrize("model_type", ["phi3", "glm", "glm4", "smollm3"])
def test_a_class_whose_padding_token_has_no_row_is_built(model_type: str) -> None:
    assert rehearse(fresh(model_type), make_tokenizer())[0].startswith("trained")
    with pytest.raises(ModelError, match="padding token that the model has no row for"):
        rehearse(fresh(model_type, pad_token_id=10**6), make_tokenizer())


ABSURD = (
    {"num_hidden_layers": -1},
    {"hidden_size": 0},
    {"num_attention_heads": 0},
    {"num_attention_heads": 5},
    {"num_key_value_heads": 3},
    {"vocab_size": -3},
    {"hidden_act": "no"},
    {"rope_parameters": {"rope_type": "no"}},
)


def all_checks(recipe: Recipe) -> None:
    read_facts(recipe)
    rehearse(recipe, make_tokenizer())


NO_CONFIGS: tuple[dict[str, Any], ...] = (
    {"dtype": "x"},
    {"dtype": []},
    {"model_type": []},
    {"model_type": None},
    {"num_attention_heads": 0},
    {"num_hidden_layers": 10**30},
    {"quantization_config": 1},
    {"rope_parameters": "x"},
    {"layer_types": "x"},
    {"vocab_size": 1.5},
    {"hidden_size": None},
    {"text_config": 3},
)


@pytest.mark.parametrize("fields", NO_CONFIGS, ids=str)
def test_a_config_file_with_anything_in_it_is_a_model_error(tmp_path: Path, fields: dict[str, Any]) -> None:
    config = AutoConfig.for_model(**LLAMA, vocab_size=300).to_dict() | fields
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError):
        all_checks(local(tmp_path))


@pytest.mark.parametrize("fields", ABSURD)
def test_absurd_sizes_are_a_model_error(fields: dict[str, Any]) -> None:
    with pytest.raises(ModelError):
        all_checks(make_recipe(model={"source": "random", "config": LLAMA | fields, "tokenizer": "t"}))


APART = ("llama", "gemma2", "gemma3n_text", "mixtral", "phi3", "opt", "cohere")
TOGETHER = ("gpt_oss", "mamba", "rwkv", "jamba", "recurrent_gemma")


@pytest.mark.parametrize("model_type", APART + TOGETHER)
def test_packing_is_refused_before_anything_starts_where_samples_would_see_each_other(model_type: str) -> None:
    recipe = fresh(model_type, packing=True)
    if model_type in APART:
        refuse_packing(recipe)
        return
    with pytest.raises(ModelError, match="would see each other") as caught:
        refuse_packing(recipe)
    assert caught.value.fix.startswith("set data.packing: false")
    refuse_packing(fresh(model_type))
