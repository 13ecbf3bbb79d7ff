"""Models in: weights from files or fresh ones from a config. Always fp32 here; the engine casts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.core_model_loading import build_glob_alternation
from transformers.utils import logging as transformers_logging

from raysft.errors import ModelError
from raysft.model.backend import attention_backend
from raysft.model.encoder import describe_head, head_of_encoder, is_bare, is_new, trains_encoder
from raysft.model.facts import UNUSABLE, check_vocabulary, load_config
from raysft.model.files import model_location, read_object, refuse_other_weights
from raysft.model.fresh import FreshTensor, UnknownStepError, put, record
from raysft.recipe.objective_traits import embeds
from raysft.recipe.schema import Recipe


def load_model(recipe: Recipe, *, vocab_size: int) -> PreTrainedModel:
    """The model of a recipe in fp32 on CPU. Raises ModelError.

    vocab_size: of rows_for(the tokenizer); the embedding must have as many. With
    `source: random` the config's vocab_size defaults to it; fresh weights are those of fresh_model, where it has any.
    """
    transformers_logging.disable_progress_bar()
    model = _fresh(recipe, vocab_size) if recipe.model.source == "random" else _from_files(recipe)
    embedding = model.get_input_embeddings().weight
    assert isinstance(embedding, torch.Tensor)
    check_vocabulary(recipe, embedding.shape[0], vocab_size)
    model.config.use_cache = False
    return model


def rows_for(tokenizer: PreTrainedTokenizerFast) -> int:
    """Embedding rows that its tokens need: one more than the largest id; ids may have gaps."""
    return max(len(tokenizer), max(tokenizer.get_vocab().values()) + 1)


def empty_model(recipe: Recipe, *, vocab_size: int) -> PreTrainedModel:
    """The same modules without any weight (torch's meta device), in fp32: what can be said before weights are read.

    Raises ModelError.
    """
    config = load_config(recipe)
    if recipe.model.source == "random":
        _set_vocabulary(recipe, config, vocab_size)
    with torch.device("meta"):
        model = _from_config(recipe, config)
    if recipe.model.source != "random" and model.can_generate():
        model.generation_config = base_generation_config(recipe) or model.generation_config
    return model


def cast_as_loaded(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Cast parameters and buffers as transformers' from_pretrained(dtype=dtype) does: some stay in fp32."""
    dtypes = dtypes_as_loaded(model, dtype)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        tensor.data = tensor.data.to(dtypes[name])


def dtypes_as_loaded(model: PreTrainedModel, dtype: torch.dtype) -> dict[str, torch.dtype]:
    """{parameter or buffer: what from_pretrained(dtype=dtype) makes of it}.

    In fp32 stays what the model type names (_keep_in_fp32_modules_strict: DeepSeek's e_score_correction_bias), and
    what its code makes in fp32 whatever the default is.
    """
    with torch.device("meta"):
        empty: Any = _auto(head_of_encoder(model) is not None, is_bare(model)).from_config(model.config, dtype=dtype)
    made = {name: tensor.dtype for name, tensor in (*empty.named_parameters(), *empty.named_buffers())}
    strict = model._keep_in_fp32_modules_strict if dtype in (torch.float16, torch.bfloat16) else None
    pattern = build_glob_alternation([*sorted(strict)])[0] if strict else None
    found = {}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        kept = pattern is not None and pattern.search(name)
        found[name] = torch.float32 if kept else made.get(name, dtype)
        if not tensor.is_floating_point():
            found[name] = tensor.dtype
    return found


def dtypes_as_held(model: PreTrainedModel, dtype: torch.dtype) -> dict[str, torch.dtype]:
    """{parameter or buffer: what a worker that trains makes of it}: every number in the precision of the training."""
    tensors = (*model.named_parameters(), *model.named_buffers())
    return {name: dtype if tensor.is_floating_point() else tensor.dtype for name, tensor in tensors}


def base_generation_config(recipe: Recipe) -> GenerationConfig | None:
    """The base's own, as from_pretrained would give it to the model; None: it has none. Raises ModelError."""
    fields = read_object(model_location(recipe), "generation_config.json", recipe.model.revision)
    try:
        return GenerationConfig.from_dict(fields) if fields else None
    except (ValueError, TypeError, AttributeError) as error:
        raise _cannot_load(recipe, f"generation_config.json: {error}") from error


def fresh_model(recipe: Recipe, *, vocab_size: int) -> tuple[PreTrainedModel, dict[str, FreshTensor]]:
    """A model of `source: random` whose parameters have no memory, and what each is made of (decision 074).

    Raises UnknownStepError where they cannot be made by ranges; ModelError.
    """
    config = load_config(recipe)
    if trains_encoder(recipe, config):
        raise UnknownStepError("an encoder is made by transformers, with or without a new head")
    _set_vocabulary(recipe, config, vocab_size)
    try:
        with _seeded(recipe):
            return record(lambda: _from_config(recipe, config), recipe.seed)
    except ModelError as error:  # what is wrong with the model itself is told where it is made whole
        raise UnknownStepError(f"transformers computes with its weights: {error.got}") from error


def _fresh(recipe: Recipe, vocab_size: int) -> PreTrainedModel:
    try:
        model, made = fresh_model(recipe, vocab_size=vocab_size)
    except UnknownStepError:
        config = load_config(recipe)
        _set_vocabulary(recipe, config, vocab_size)
        with _seeded(recipe):
            return _from_config(recipe, config)

    def value(name: str, parameter: nn.Parameter) -> torch.Tensor:
        found = torch.empty(parameter.shape)
        made[name].read(found.view(-1))
        return found

    put(model, value)
    return model


@contextmanager
def _seeded(recipe: Recipe) -> Iterator[None]:
    """What is new and drawn in the order of the modules, as the head of an encoder, follows recipe.seed."""
    generator_state = torch.get_rng_state()
    torch.manual_seed(recipe.seed)
    try:
        yield
    finally:
        torch.set_rng_state(generator_state)


def _set_vocabulary(recipe: Recipe, config: PretrainedConfig, vocab_size: int) -> None:
    """Rows for the tokenizer's tokens; and no padding token unless the recipe names one.

    A class's default id means nothing to this tokenizer: torch would keep that token's embedding at zero, or refuse
    an id beyond the vocabulary.
    """
    fields = recipe.model.config
    assert fields is not None
    text = config.get_text_config()
    if "vocab_size" not in fields:
        text.vocab_size = vocab_size
    if "pad_token_id" not in fields:
        text.pad_token_id = None
    elif text.pad_token_id is not None and not 0 <= text.pad_token_id < text.vocab_size:
        raise ModelError(
            "model.config names a padding token that the model has no row for",
            got=f"pad_token_id: {text.pad_token_id}, vocab_size: {text.vocab_size}",
            expected=f"an id from 0 to {text.vocab_size - 1}",
            fix="leave model.config.pad_token_id out: raysft needs none",
        )


def _from_config(recipe: Recipe, config: PretrainedConfig) -> PreTrainedModel:
    if trains_encoder(recipe, config):
        describe_head(config, recipe)
    try:
        model: PreTrainedModel = _auto(trains_encoder(recipe, config), embeds(recipe)).from_config(
            config,
            dtype=torch.float32,
            attn_implementation=attention_backend(recipe, config),
            trust_remote_code=recipe.model.trust_remote_code,
        )
    except UNUSABLE as error:
        raise _cannot_load(recipe, error) from error
    return model


def _from_files(recipe: Recipe) -> PreTrainedModel:
    section = recipe.model
    refuse_other_weights(model_location(recipe), section.revision)
    config = load_config(recipe)
    is_encoder = trains_encoder(recipe, config)
    if is_encoder:
        describe_head(config, recipe)
    try:
        with _seeded(recipe):
            loaded: Any = _auto(is_encoder, embeds(recipe)).from_pretrained(
                model_location(recipe),
                config=config,
                revision=section.revision,
                trust_remote_code=section.trust_remote_code,
                attn_implementation=attention_backend(recipe, config),
                dtype=torch.float32,
                use_safetensors=True,
                output_loading_info=True,
            )
    except (OSError, SafetensorError, *UNUSABLE) as error:
        raise _cannot_load(recipe, error) from error
    model: PreTrainedModel = loaded[0]
    missing = sorted(name for name in loaded[1]["missing_keys"] if not (is_encoder and is_new(model, name)))
    if missing:  # transformers fills them with random numbers
        raise _cannot_load(recipe, f"{len(missing)} weights are missing: {', '.join(missing[:3])}")
    return model


def _auto(is_encoder: bool, is_bare: bool) -> Any:
    """The class that chooses a class."""
    if not is_encoder:
        return AutoModelForCausalLM
    return AutoModel if is_bare else AutoModelForSequenceClassification


def _cannot_load(recipe: Recipe, error: Exception | str) -> ModelError:
    got = " ".join(str(error).split())[:300]
    is_lacking = "weights are missing" in got  # among them those of attention
    if not is_lacking and ("attention" in got.lower() or "flash" in got.lower()):
        return ModelError(
            f"the model {recipe.model.source!r} cannot be loaded with model.attention: {recipe.model.attention}",
            got=got,
            expected="a backend that this model and this machine have",
            fix="set model.attention: eager (every model has it)",
        )
    if "ignore_mismatched_sizes" in got:  # transformers points to a table that it logs
        got = "weights of other shapes than config.json says"
    return ModelError(
        f"cannot load the model {recipe.model.source!r}",
        got=got,
        expected="a causal language model with safetensors weights (pickled weights are never loaded)",
        fix="check that the directory holds model.safetensors; convert .bin files with transformers first",
    )
