"""config.json -> ModelFacts, without torch. Loads no weights."""

from __future__ import annotations

import difflib
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PretrainedConfig

from raysft.errors import ModelError, RecipeError
from raysft.model.files import model_location, nearest_directory, refuse_other_weights, what_is_at
from raysft.recipe.facts import ModelFacts
from raysft.recipe.families import family_of
from raysft.recipe.schema import Recipe

_COMMON = (
    "num_hidden_layers",
    "hidden_size",
    "vocab_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "max_position_embeddings",
)
"""Sizes by the names that transformers gives them in every type, be they fields, aliases or computed."""


UNUSABLE = (
    AssertionError,
    AttributeError,
    ArithmeticError,
    ImportError,
    LookupError,
    RuntimeError,
    StrictDataclassError,
    TypeError,
    ValueError,
)
"""What transformers' classes raise at a config that is none of theirs."""


MOST_LAYERS = 10_000


def load_config(recipe: Recipe) -> PretrainedConfig:
    """The model's transformers config, from its files or from the recipe. Raises ModelError."""
    model = recipe.model
    if model.config is not None:
        return _config_from_recipe(dict(model.config))
    if model.source == "random":
        raise RecipeError(
            "model.source: random needs model.config",
            got="model.config: null",
            expected="a transformers config with its model_type",
            fix="add model.config, or name a model directory or hub id in model.source",
        )
    location = model_location(recipe)
    refuse_other_weights(location, model.revision)
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(
            location, revision=model.revision, trust_remote_code=model.trust_remote_code
        )
    except (OSError, *UNUSABLE) as error:
        raise ModelError(
            f"cannot read the model {model.source!r}",
            got=what_is_at(location, " ".join(str(error).split())[:200]),
            expected="a local directory with config.json, a hub id that is reachable, run://NAME or `random`",
            fix="check model.source" + nearest_directory(location),
        ) from error
    return config


def read_facts(recipe: Recipe) -> ModelFacts:
    """Sizes of the model that a recipe names. Raises ModelError."""
    config = load_config(recipe)
    if config.is_encoder_decoder:
        raise ModelError(
            "a model that reads by an encoder and writes by a decoder is not trained here",
            got=f"a {config.model_type} model",
            expected="a causal language model; or an encoder alone, for classify and contrastive",
            fix="choose a decoder such as Llama, Qwen or Gemma",
        )
    text = text_fields(config)
    heads = optional_size(text, "num_attention_heads")
    groups = optional_size(text, "num_key_value_heads") or heads or 1
    if heads and heads % groups:
        raise ModelError(
            "the heads of keys and values do not divide the heads",
            got=f"{heads} heads, {groups} of keys and values",
            expected=f"a divisor of {heads}",
            fix="mend the model's config",
        )
    layers = first_size(text, "num_hidden_layers")
    if layers > MOST_LAYERS:
        raise ModelError(
            "the model's config has more layers than can be built",
            got=f"num_hidden_layers: {layers}",
            expected=f"at most {MOST_LAYERS:,}",
            fix="mend the model's config",
        )
    return ModelFacts(
        model_type=config.model_type,
        num_layers=layers,
        hidden_size=first_size(text, "hidden_size"),
        vocab_size=first_size(text, "vocab_size"),
        max_tokens=optional_size(text, "max_position_embeddings", "max_seq_len"),
        num_parameters=_weights_per_token(config.model_type, text),
        attention_size=_head_size(text) * heads if heads else 0,
        num_heads=heads or 1,
        num_kv_heads=groups,
        same_factors_up_to=_same_factors_up_to(text),
        router_loss=_router_loss(text),
    )


def text_fields(config: PretrainedConfig) -> dict[str, Any]:
    """The config of the text model, each field by its common name besides the type's own (MPT's d_model)."""
    try:
        text = config.get_text_config()
        fields: dict[str, Any] = text.to_dict()
        missing = (name for name in _COMMON if name not in fields and hasattr(text, name))
        return fields | {name: getattr(text, name) for name in missing}
    except UNUSABLE as error:
        raise ModelError(
            "this model's config cannot be used",
            got=" ".join(str(error).split())[:200],
            expected=f"the fields of transformers' {type(config).__name__}",
            fix="mend the model's config",
        ) from error


def _head_size(text: dict[str, Any]) -> int:
    size = optional_size(text, "head_dim")
    return size or first_size(text, "hidden_size") // first_size(text, "num_attention_heads")


def _weights_per_token(model_type: str, text: dict[str, Any]) -> int:
    """Weights of the matrices that each token is multiplied with: of a mixture, those of the experts it goes to."""
    hidden, attention = first_size(text, "hidden_size"), 0
    if heads := optional_size(text, "num_attention_heads"):
        attention = 2 * hidden * _head_size(text) * (heads + (optional_size(text, "num_key_value_heads") or heads))
    inner = optional_size(text, "intermediate_size", "n_inner", "ffn_dim") or 4 * hidden
    if experts := optional_size(text, "num_experts_per_tok"):
        inner = experts * (optional_size(text, "moe_intermediate_size") or inner)
    mlp = hidden * inner * (3 if family_of(model_type).gated else 2)
    layers = first_size(text, "num_hidden_layers")
    return int(layers * (attention + mlp) + hidden * first_size(text, "vocab_size"))


def _same_factors_up_to(text: dict[str, Any]) -> int | None:
    """Tokens up to which all positions are rotated by the same factors; None: always.

    Phi-3's longrope (arXiv:2402.13753) and dynamic NTK change the factors of a whole pass with its longest position.
    """
    scaling = text.get("rope_parameters") or text.get("rope_scaling") or {}
    per_layer = [value for value in scaling.values() if isinstance(value, dict)]
    limits: list[int | None] = []
    for rope in [scaling, *per_layer]:
        kind = rope.get("rope_type") or rope.get("type")
        if kind == "longrope":
            limits.append(optional_size({**text, **rope}, "original_max_position_embeddings"))
        if kind == "dynamic":
            limits.append(optional_size(text, "max_position_embeddings"))
    return min((limit for limit in limits if limit is not None), default=None)


def _router_loss(text: dict[str, Any]) -> float:
    """Weight of the loss that balances a mixture's experts, where the config asks for it; else 0."""
    coefficient = text.get("router_aux_loss_coef")
    return float(coefficient) if text.get("output_router_logits") and isinstance(coefficient, int | float) else 0.0


def _config_from_recipe(fields: dict[str, Any]) -> PretrainedConfig:
    model_type = fields.pop("model_type", None)
    try:
        config: PretrainedConfig = AutoConfig.for_model(model_type, **fields)
        known = [*type(config)().to_dict(), *type(config).attribute_map]
    except UNUSABLE as error:
        raise ModelError(
            "model.config is not a transformers config",
            got=f"model_type = {model_type!r}: {' '.join(str(error).split())[:200]}",
            expected="model_type (llama, qwen3, mistral, gpt2...) and that type's fields",
            fix="mend model.config",
        ) from error
    _refuse_misspelt(config, fields, known)
    return config


def _refuse_misspelt(config: PretrainedConfig, fields: dict[str, Any], known: list[str]) -> None:
    """transformers keeps a field it does not know and ignores it: `hiden_size` would give another model."""
    for name in fields:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
        if name not in known and near:
            raise RecipeError(
                f"model.config has a field {name!r}, which a {config.model_type} model has not",
                got=f"{name}: {fields[name]!r}",
                expected=f"the fields of transformers' {type(config).__name__}",
                fix=f"did you mean {near[0]}?",
            )


def optional_size(fields: dict[str, Any], *names: str) -> int | None:
    """The first of these fields that is a number, or a number for each layer (their mean, rounded). None: there is
    none. Raises ModelError for one that is no size."""
    for name in names:
        value = fields.get(name)
        if isinstance(value, list | tuple) and value and all(type(one) is int for one in value):
            value = round(sum(value) / len(value))
        if type(value) is int:
            if not 1 <= value < 2**40:
                raise ModelError(
                    "the model's config has a size that is none",
                    got=f"{name}: {fields[name]}",
                    expected="a whole number of 1 or more",
                    fix="mend the model's config",
                )
            return value
    return None


def first_size(fields: dict[str, Any], *names: str) -> int:
    """As optional_size, and there must be one. Raises ModelError."""
    size = optional_size(fields, *names)
    if size is None:
        raise ModelError(
            "this model is no decoder that raysft knows",
            got=f"a config without {' or '.join(names)}",
            expected="a decoder language model",
            fix="choose a causal language model",
        )
    return size


def check_vocabulary(recipe: Recipe, embedding_rows: int, num_rows: int) -> None:
    """Refuse a tokenizer with more tokens than the model has embedding rows. Raises ModelError.

    num_rows: what the tokenizer needs. Fresh weights without a vocab_size get as many.
    """
    config = recipe.model.config
    if num_rows <= embedding_rows or (config is not None and "vocab_size" not in config):
        return
    if config is not None:
        fix = f"set model.config.vocab_size to {num_rows} or more, or leave it out"
    elif recipe.model.tokenizer is not None:
        fix = "use the model's own tokenizer (leave model.tokenizer out)"
    else:
        fix = (
            f"raysft adds no rows to a model: do it with transformers, model.resize_token_embeddings({num_rows}) and "
            "model.save_pretrained(), and name that directory; or take the added tokens out of the tokenizer"
        )
    raise ModelError(
        "the tokenizer knows more tokens than the model",
        got=f"token ids up to {num_rows - 1}, {embedding_rows} embedding rows",
        expected="an embedding row for every token",
        fix=fix,
    )
