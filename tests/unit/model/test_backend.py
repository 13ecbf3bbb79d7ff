"""Attention is chosen from the config, before anything is loaded."""

from __future__ import annotations

import pytest
from fakes import make_recipe
from families import V, tiny_fields
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM

from raysft.errors import ModelError
from raysft.model.backend import attention_backend, with_backend
from raysft.model.load import load_model
from raysft.recipe.facts import ClusterFacts, NodeFacts
from raysft.recipe.schema import Recipe
from raysft.run import layout_choice

EAGER = ("gemma2", "gpt_oss", "vaultgemma", "gptj", "codegen", "bloom")
SDPA = ("llama", "qwen3", "mixtral", "gemma3_text", "gpt2")


def fresh(model_type: str, attention: str = "auto") -> Recipe:
    config = tiny_fields(model_type)
    return make_recipe(model={"source": "random", "config": config, "tokenizer": "t", "attention": attention})


@pytest.mark.parametrize("model_type", EAGER + SDPA)
def test_the_best_backend_that_a_type_has_is_chosen(model_type: str) -> None:
    expected = "eager" if model_type in EAGER else "sdpa"
    assert with_backend(fresh(model_type)).model.attention == expected
    assert load_model(fresh(model_type), vocab_size=V).config._attn_implementation == expected


def test_what_transformers_would_refuse_is_never_chosen() -> None:
    for name in ("mpt", "rwkv", "phi", "falcon", "xglm", "gpt_neo", "mamba", "stablelm", "olmo", "gemma"):
        config = CONFIG_MAPPING[name]()
        backend = attention_backend(fresh("llama"), config)
        assert backend == "eager" or MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]._supports_sdpa, name


def test_a_backend_that_a_type_has_not_is_refused_and_those_it_has_are_named() -> None:
    with pytest.raises(ModelError, match="a gemma2 model has no attention backend 'sdpa'") as caught:
        with_backend(fresh("gemma2", "sdpa"))
    assert "eager" in caught.value.expected
    fields = tiny_fields("gemma2")
    with pytest.raises(ValueError, match="scaled_dot_product_attention"):  # as transformers itself says
        AutoModelForCausalLM.from_config(
            AutoConfig.for_model(fields.pop("model_type"), **fields), attn_implementation="sdpa"
        )


def test_the_choice_is_said_before_anything_starts() -> None:
    nodes = ClusterFacts((NodeFacts(4, 0, memory_bytes=2**34),))
    lines = layout_choice.choose_layout(fresh("gpt_oss"), nodes).lines
    assert "attention    eager: a gpt_oss model has no sdpa" in lines
    assert not [
        line for line in layout_choice.choose_layout(fresh("llama"), nodes).lines if line.startswith("attention")
    ]
