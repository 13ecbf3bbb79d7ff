"""A cut model computes what transformers' own forward computes, for every shape in the table."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from raysft.errors import ModelError
from raysft.model.fast.start_check import use_fast_paths
from raysft.model.methods import base_model
from raysft.model.stages import Stage, stage_layers
from raysft.recipe.families import CUT_INTO_STAGES

SMALL = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
SLIDING = {"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 4, "head_dim": 8}
OTHER: dict[str, dict[str, Any]] = {
    "qwen2": {
        "layer_types": ["full_attention"] * 2 + ["sliding_attention"] * 2,
        "use_sliding_window": True,
        "sliding_window": 4,
    },
    "gemma": {"head_dim": 8},
    "gemma2": SLIDING,
    "gemma3_text": SLIDING,
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 16},
}


def tiny(model_type: str, **more: Any) -> PreTrainedModel:
    """The same weights at every call."""
    config = AutoConfig.for_model(model_type, **(SMALL | OTHER.get(model_type, {}) | more))
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    return model


def run(stages: list[Stage], ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    hidden = ids
    for stage in stages:
        hidden = stage(hidden, positions)
    assert stages[-1].head is not None
    logits: torch.Tensor = stages[-1].head.module(hidden)
    return logits


@pytest.mark.parametrize("model_type", sorted(CUT_INTO_STAGES))
def test_stages_compute_what_the_model_computes(model_type: str) -> None:
    segments = [torch.arange(n)[None] * 7 % 50 for n in (9, 6)]
    whole = tiny(model_type)
    expected = torch.cat([whole(input_ids=segment).logits for segment in segments], dim=1)
    cap = vars(whole.config).get("final_logit_softcapping")
    use_fast_paths(whole, 50)
    parts = stage_layers(whole, 3)
    stages = []
    for part in parts:
        model = tiny(model_type)
        model.set_attn_implementation(whole.config._attn_implementation)
        stages.append(Stage(model, part).eval())
    positions = torch.cat([torch.arange(s.shape[1]) for s in segments])[None]
    logits = run(stages, torch.cat(segments, dim=1), positions)
    logits = cap * torch.tanh(logits / cap) if cap else logits
    assert logits.shape == expected.shape
    assert (logits - expected).abs().max() <= 1e-5
    held = [sum(p.numel() for p in stage.parameters()) for stage in stages]
    first, last = whole.get_input_embeddings().weight, whole.get_output_embeddings().weight
    assert isinstance(first, torch.Tensor)
    twice = first.numel() if first is last else 0
    assert sum(held) == sum(p.numel() for p in whole.parameters()) + twice


def test_gradients_of_stages_are_those_of_the_model() -> None:
    """Also with checkpointing, and with a first stage in which nothing is trained."""
    ids, positions = torch.arange(12)[None], torch.arange(12)[None]
    whole = tiny("llama", tie_word_embeddings=False)
    for parameter in whole.model.embed_tokens.parameters():
        parameter.requires_grad_(False)
    whole(input_ids=ids).logits.square().sum().backward()
    expected = {name: p.grad for name, p in whole.named_parameters()}
    stages = []
    for part in (range(1), range(1, 4)):
        model = tiny("llama", tie_word_embeddings=False).train()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        names = {parameter: name for name, parameter in model.named_parameters()}
        if part.start == 0:
            for parameter in (*model.model.embed_tokens.parameters(), *model.model.layers[0].parameters()):
                parameter.requires_grad_(False)
        stages.append((Stage(model, part), names))
    run([stage for stage, _ in stages], ids, positions).square().sum().backward()  # type: ignore[no-untyped-call]
    stage, names = stages[1]
    compared = 0
    for parameter in stage.parameters():
        torch.testing.assert_close(parameter.grad, expected[names[parameter]], rtol=1e-5, atol=1e-6)
        compared += 1
    assert compared == 3 * 9 + 2


def test_adapters_stay_in_their_layers() -> None:
    from peft import LoraConfig, get_peft_model

    ids, positions = torch.arange(10)[None], torch.arange(10)[None]
    stages = []
    for part in (range(2), range(2, 4)):
        torch.manual_seed(1)
        config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
        adapted = get_peft_model(tiny("llama"), config)
        stages.append(Stage(base_model(adapted), part))
    torch.manual_seed(1)
    expected = get_peft_model(tiny("llama"), config)(input_ids=ids).logits
    assert (run(stages, ids, positions) - expected).abs().max() <= 1e-5
    assert [sum(p.requires_grad for p in stage.parameters()) for stage in stages] == [28, 28]


def test_what_cannot_be_cut_is_refused() -> None:
    with pytest.raises(ModelError, match="llama, mistral"):
        stage_layers(tiny("phi3", pad_token_id=0), 2)
    with pytest.raises(ModelError, match=r"set parallel\.pipeline to 4"):
        stage_layers(tiny("llama"), 5)


def test_a_large_head_is_weighed() -> None:
    """32 x 800 head weights against 6,656 of a layer: the last stage gets fewer layers."""
    layers = [len(part) for part in stage_layers(tiny("llama", vocab_size=800), 2)]
    assert layers == [3, 1]
    assert isinstance(tiny("llama").get_output_embeddings(), nn.Linear)
