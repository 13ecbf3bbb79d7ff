"""A small twin of a model: of the same kind, with its oddities."""

from __future__ import annotations

from transformers import AutoConfig, AutoModelForCausalLM

from raysft.model.twin import packing_leak, small_config


def test_a_small_twin_is_small_and_of_the_same_kind() -> None:
    config = AutoConfig.for_model("gemma3_text", num_hidden_layers=26)
    small = small_config(config)
    assert (small.num_hidden_layers, small.layer_types) == (6, config.layer_types[:6])
    assert set(small.layer_types) == set(config.layer_types)
    assert sum(p.numel() for p in AutoModelForCausalLM.from_config(small).parameters()) < 90_000
    assert config.num_hidden_layers == 26
    assert packing_leak(config, "sdpa") < 1e-4  # type: ignore[operator]
