"""Encoders (BERT's kind): models that see a text from both sides, with a head for whole texts and none for tokens.

They are trained as transformers' sequence classifiers of their type, whose own forward makes the scores, or bare,
where hidden states make vectors: a text a row, padding masked. Attention that sees both sides knows no borders within
a row, so data.packing is off.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    PretrainedConfig,
    PreTrainedModel,
)

from raysft.errors import ModelError, refuse_first
from raysft.recipe.objective_traits import classes_of, embeds, head_of
from raysft.recipe.schema import Recipe
from raysft.recipe.traits import virtual_tokens


def is_encoder(config: PretrainedConfig) -> bool:
    """Is it of a type that fills gaps in a text, and reads it at once, not token by token?"""
    kind = type(config)
    has_both = kind in MODEL_FOR_MASKED_LM_MAPPING and kind in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    return has_both and not config.is_encoder_decoder and not (hasattr(config, "is_decoder") and config.is_decoder)


def trains_encoder(recipe: Recipe, config: PretrainedConfig) -> bool:
    """Is a recipe's model one that is trained as such? config: the model's."""
    return (bool(head_of(recipe)) or embeds(recipe)) and is_encoder(config)


def describe_head(config: PretrainedConfig, recipe: Recipe) -> None:
    """Write into a config what the numbers of the objective's head are, if it has one."""
    if not head_of(recipe):
        return
    classes = classes_of(recipe)
    config.num_labels = head_of(recipe)
    if classes.labels:
        config.id2label = dict(enumerate(classes.labels))
        config.label2id = {label: number for number, label in enumerate(classes.labels)}
        config.problem_type = "multi_label_classification" if classes.several else "single_label_classification"


def is_bare(model: PreTrainedModel) -> bool:
    """Is it an encoder without any head?"""
    return is_encoder(model.config) and model.base_model is model


POOLER = "pooler"
"""Name of the layer over the first token's state that some encoders have, and that no vector is made of."""


def is_new(model: PreTrainedModel, name: str) -> bool:
    """Does a parameter belong to the head, which no base has, or to a layer that nothing reads? name: its name in the
    model that is trained."""
    return name.startswith(f"{POOLER}.") if is_bare(model) else not name.startswith(f"{model.base_model_prefix}.")


def head_of_encoder(model: PreTrainedModel) -> nn.ModuleList | None:
    """All that a classifier has besides its encoder, nothing where it is bare; None: the model is no such encoder."""
    if not is_encoder(model.config) or model.get_output_embeddings() is not None:
        return None
    if is_bare(model):
        return nn.ModuleList()
    return nn.ModuleList([child for child in model.children() if child is not model.base_model])


def text_scores(model: PreTrainedModel, input_ids: Tensor, segment_of: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """([S, numbers] that a classifier makes of S texts, [S, D] that its head makes them of).

    input_ids: [B, T], a text a row. segment_of: below 0 at padding. count: S; a row behind those of the texts has
    none, and tells nothing. A head is
    given a state of the text, or those of all tokens, of which it takes the first.
    """
    is_text = segment_of[:, 0] >= 0
    mask = torch.where(is_text[:, None], segment_of >= 0, True)  # what sees nothing is no number
    given: list[Tensor] = []

    def note(part: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        given.append(inputs[0])

    parts = head_of_encoder(model)
    assert parts is not None, "a classifier has a head"
    hooks = [part.register_forward_pre_hook(note, prepend=True) for part in parts]
    try:
        logits: Tensor = model(input_ids=input_ids, attention_mask=mask.long()).logits
    finally:
        for hook in hooks:
            hook.remove()
    states = given[0][:, 0] if given[0].ndim > 2 else given[0]
    return logits[:count], states[:count]


def text_states(model: PreTrainedModel, input_ids: Tensor, segment_of: Tensor) -> Tensor:
    """The hidden states of texts [B, T, D] from a bare encoder, a text a row. segment_of: [B, T], below 0 at
    padding."""
    is_text = segment_of[:, :1] >= 0
    mask = torch.where(is_text, segment_of >= 0, True)
    states: Tensor = model(input_ids=input_ids, attention_mask=mask.long())[0]
    return states


def check_encoder(recipe: Recipe, config: PretrainedConfig) -> None:
    """Raises ModelError for what an encoder cannot be trained with. config: of the recipe's model."""
    if not is_encoder(config):
        return
    parallel = recipe.parallel
    sizes = {"tensor": parallel.tensor, "pipeline": parallel.pipeline, "sequence": parallel.sequence}
    cut = [name for name, size in sizes.items() if size > 1]
    refuse_first(
        ModelError,
        (
            not trains_encoder(recipe, config),
            "an encoder writes no text",
            f"a {config.model_type} model, objective: {recipe.objective.kind}",
            "an objective with a head of its own, or one of vectors of texts",
            "set objective.kind: classify or contrastive, or choose a causal language model",
        ),
        (
            recipe.data.packing,
            "texts in one row would see each other",
            f"a {config.model_type} model, which reads from both sides, and data.packing: true",
            "a text a row",
            "set data.packing: false",
        ),
        (
            bool(cut),
            "raysft cuts an encoder over no axis",
            f"a {config.model_type} model, {', '.join(f'parallel.{name} above 1' for name in cut)}",
            "data parallelism with ZeRO 0 to 3",
            "remove it",
        ),
        (
            bool(virtual_tokens(recipe) or recipe.train.embedding_noise),
            "raysft puts nothing before or into the embeddings of an encoder",
            f"a {config.model_type} model, method.kind: {recipe.method.kind}, "
            f"train.embedding_noise: {recipe.train.embedding_noise}",
            "method.kind: full, probe, lora, ia3 or bottleneck, and no noise",
            "set method.kind: lora",
        ),
    )
