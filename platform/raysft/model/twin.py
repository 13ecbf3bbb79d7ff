"""A small model of the same kind as a large one: its code with random weights, for what only a pass can tell.

Owns how a config is made small, and the question whether packed samples stay apart, asked in the driver before any
data is prepared. The workers ask it again of the real model (start_check.py), or of a twin on their device where each
reads only a part of the model (decision 034). A kind that no twin can be made of, or that computes nothing finite, is
left to the workers, which then load it whole.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from raysft.errors import ModelError
from raysft.model.backend import attention_backend
from raysft.model.encoder import check_encoder, is_encoder
from raysft.model.facts import UNUSABLE, load_config
from raysft.model.fast.attention import SEGMENTS
from raysft.model.fast.start_check import TOLERANCE, check_isolation
from raysft.recipe.schema import Recipe

VOCABULARY = 64
LAYERS, MOST_LAYERS = 4, 12
HEAD_SIZE = 8
_SIZES = {
    "vocab_size": VOCABULARY,
    "vocab_size_per_layer_input": VOCABULARY,
    "hidden_size_per_layer_input": 8,
    "intermediate_size": 32,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
}
"""What makes a decoder small and leaves how it computes as it is."""


def refuse_packing(recipe: Recipe) -> None:
    """Raises ModelError where packed samples of this kind of model see each other, so that packing must be off.

    A state over the row (Mamba, DeepSeek-V4's compressed keys) does so by its class; of others a small one is asked.
    """
    config = load_config(recipe)
    check_encoder(recipe, config)
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if not recipe.data.packing or model_class is None or isinstance(model_class, tuple):
        return
    found = None
    if model_class._is_stateful:
        found = "layers that carry a state over the row"
    else:
        leak = packing_leak(config, attention_backend(recipe, config))
        if leak is not None and leak > TOLERANCE:
            found = f"log-probabilities of a small one that differ by {leak:.2g}"
    if found is not None:
        raise ModelError(
            f"packed samples of a {config.model_type} model would see each other",
            got=f"{found}, data.packing = True",
            expected="samples that stay apart",
            fix="set data.packing: false (each sample in a row of its own)",
        )


def packing_leak(config: PretrainedConfig, backend: str) -> float | None:
    """Largest difference of log-probabilities between packed samples and each alone, in a small model of this kind.

    None: no twin could be made, or it computes nothing finite.
    """
    try:
        with _seeded():
            model = AutoModelForCausalLM.from_config(
                small_config(config), dtype=torch.float32, attn_implementation=backend
            )
        leaks = [_leak(model, name) for name in attentions(model, backend)]
    except (*UNUSABLE, ModelError):
        return None
    best = min(leaks)
    return best if math.isfinite(best) else None


def make_twin(recipe: Recipe, ways: int = 1, *, own_heads: bool = False) -> PreTrainedModel | None:
    """A small model of the recipe's kind with random weights, always the same ones, in fp32. None: none can be made.

    ways: parts that its heads and inner features are to be cut into. own_heads: as wide as the model's, which decides
    what kernel runs.
    """
    config = load_config(recipe)
    if is_encoder(config):
        return None
    try:
        with _seeded():
            twin: PreTrainedModel = AutoModelForCausalLM.from_config(
                small_config(config, ways, _head_size(config) if own_heads else HEAD_SIZE),
                dtype=torch.float32,
                attn_implementation=attention_backend(recipe, config),
            )
    except (*UNUSABLE, ModelError):
        return None
    twin.config.use_cache = False
    return twin


def keeps_samples_apart(model: PreTrainedModel) -> bool:
    """Do packed samples of a row not see each other? A model in fp32 is asked itself. Rounding in bf16 is larger than
    a leak may be: a small one of its kind, in fp32 and with its attention, is asked; if there is none: no."""
    if model.dtype == torch.float32:
        return check_isolation(model, model.config.get_text_config().vocab_size) <= TOLERANCE
    try:
        with _seeded():
            small = AutoModelForCausalLM.from_config(
                small_config(model.config),
                dtype=torch.float32,
                attn_implementation=model.config._attn_implementation,
            )
        return check_isolation(small.to(model.device), VOCABULARY) <= TOLERANCE
    except (*UNUSABLE, ModelError):
        return False


def _head_size(config: PretrainedConfig) -> int:
    """Numbers in a head of the model's attention; HEAD_SIZE where its config does not tell."""
    fields = config.get_text_config().to_dict()
    if fields.get("head_dim"):
        return int(fields["head_dim"])
    width, heads = fields.get("hidden_size"), fields.get("num_attention_heads")
    return int(width) // int(heads) if width and heads else HEAD_SIZE


def small_config(config: PretrainedConfig, ways: int = 1, head_size: int = HEAD_SIZE) -> PretrainedConfig:
    """The text part of a config with few layers, one of each kind, few heads, experts, tokens. ways: of make_twin."""
    small = copy.deepcopy(config.get_text_config())
    layers = small.num_hidden_layers
    of_layers = {n: v for n, v in vars(small).items() if isinstance(v, list | tuple) and len(v) == layers}
    kept = max(LAYERS, *(1 + value.index(kind) for value in of_layers.values() for kind in value), 0)
    kept = min(layers, kept, MOST_LAYERS)
    for name, value in of_layers.items():
        setattr(small, name, value[:kept])
    small.num_hidden_layers = kept
    for name, size in _SIZES.items():
        if hasattr(small, name) and isinstance(getattr(small, name), int):
            setattr(small, name, size * ways if name == "intermediate_size" else size)
    if hasattr(small, "num_attention_heads"):
        heads = small.num_attention_heads
        groups = small.num_key_value_heads if hasattr(small, "num_key_value_heads") else None
        small.num_attention_heads = min(heads, 4) * ways
        if groups:
            small.num_key_value_heads = small.num_attention_heads if groups == heads else min(groups, 2) * ways
        small.hidden_size = head_size * small.num_attention_heads
        if vars(small).get("head_dim"):  # with latent attention the width that is rotated
            small.head_dim = vars(small).get("qk_rope_head_dim") or head_size
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(small, name, None)
    if hasattr(small, "initializer_range"):
        small.initializer_range = 0.2  # so that what is seen makes a difference
    return small


def attentions(model: PreTrainedModel, backend: str) -> list[str]:
    """What a worker would try of a model that was made with `backend`: see start_check.use_fast_paths."""
    has_segments = backend == "sdpa" and model._supports_attention_backend and model._supports_flash_attn
    return [SEGMENTS, backend] if has_segments else [backend]


def _leak(model: PreTrainedModel, backend: str) -> float:
    model.set_attn_implementation(backend)
    try:
        return check_isolation(model, VOCABULARY)
    except ModelError:  # segment attention does not compute what this model asks for
        return math.inf


@contextmanager
def _seeded() -> Iterator[None]:
    state = torch.get_rng_state()
    torch.manual_seed(0)
    try:
        yield
    finally:
        torch.set_rng_state(state)
