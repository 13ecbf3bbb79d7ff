"""An objective's own head: numbers made of a whole sample. How it is put on a model, and what the model then is.

While it trains, it stands beside the LM head, by which the model is loaded and checked as any other, and which is
left as it is. What is exported is transformers' sequence classifier of the same type, without an LM head.
"""

from __future__ import annotations

import copy

import torch
from torch import nn
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, PreTrainedModel

from raysft.errors import ModelError
from raysft.model.decoder import TASK_HEAD, task_head
from raysft.model.encoder import describe_head, head_of_encoder
from raysft.recipe.objective_traits import embeds, head_of, objective_of
from raysft.recipe.schema import Recipe

_STANDARD_DEVIATION = 0.02

AUXILIARY = "auxiliary."
"""What names of the weights of an objective's second head begin with."""


def add_head(model: PreTrainedModel, recipe: Recipe) -> None:
    """Put the head of the recipe's objective on a model, if it has one: fresh weights by the recipe's seed, trained.

    model: after its method was applied, without what that put around it. An encoder's classifier has its head.
    """
    outputs = head_of(recipe)
    if embeds(recipe):
        _leave_head(model)
    if not outputs:
        return
    if (own := head_of_encoder(model)) is not None:
        own.requires_grad_(True)
        return
    embedding = model.get_input_embeddings().weight
    assert isinstance(embedding, torch.Tensor)
    width = model.config.get_text_config().hidden_size
    generator = torch.Generator().manual_seed(recipe.seed)
    weight = torch.randn(outputs, width, generator=generator) * _STANDARD_DEVIATION
    head = nn.Linear(width, outputs, bias=False, device="meta")
    head.weight = nn.Parameter(weight.to(embedding.device))
    _leave_head(model)
    model.add_module(TASK_HEAD, head)


def auxiliary_head(model: PreTrainedModel, recipe: Recipe) -> nn.Sequential | None:
    """The second head of the recipe's objective, fresh by the recipe's seed; None: it has none.

    On pooled states [N, D], linear layers with rectifiers between. It stands beside the model, never in it: nothing
    that is exported knows of it.
    """
    sizes = objective_of(recipe).auxiliary(recipe.objective)
    if not sizes:
        return None
    embedding = model.get_input_embeddings().weight
    assert isinstance(embedding, torch.Tensor)
    generator = torch.Generator().manual_seed(recipe.seed)
    layers: list[nn.Module] = []
    width = model.config.get_text_config().hidden_size
    for size in sizes:
        layer = nn.Linear(width, size, device="meta")
        weight = torch.randn(size, width, generator=generator) / width**0.5  # LeCun et al. 1998
        layer.weight = nn.Parameter(weight.to(embedding.device))
        layer.bias = nn.Parameter(torch.zeros(size, device=embedding.device))
        layers += [layer, nn.ReLU()]
        width = size
    return nn.Sequential(*layers[:-1])


def _leave_head(model: PreTrainedModel) -> None:
    """An LM head of its own weights is not trained where nothing reads it: only weight decay would reach it."""
    lm_head, embedding = model.get_output_embeddings(), model.get_input_embeddings().weight
    if isinstance(lm_head, nn.Module) and not any(p is embedding for p in lm_head.parameters()):
        lm_head.requires_grad_(False)


def as_classifier(model: PreTrainedModel, recipe: Recipe, pad_token_id: int | None) -> PreTrainedModel:
    """transformers' sequence classifier with the parameters of a model and its head; the model itself without one.

    Raises ModelError for a type that has none.
    """
    head = task_head(model)
    if head is None or head_of_encoder(model) is not None:
        return model
    found = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(model.config), None)
    config = copy.deepcopy(model.config)
    describe_head(config, recipe)
    config.pad_token_id = pad_token_id
    if not isinstance(found, type) or not issubclass(found, PreTrainedModel):
        raise _no_classifier(model, "transformers has none")
    with torch.device("meta"):
        made = found(config)
    if made.base_model_prefix != model.base_model_prefix or task_head(made) is None:
        raise _no_classifier(model, f"a {found.__name__} with {', '.join(n for n, _ in made.named_children())}")
    setattr(made, made.base_model_prefix, model.base_model)
    setattr(made, TASK_HEAD, head)
    if "_weight_conversions" in vars(model):
        vars(made)["_weight_conversions"] = vars(model)["_weight_conversions"]
    ours = {id(parameter) for parameter in model.parameters()}
    if strange := [name for name, parameter in made.named_parameters() if id(parameter) not in ours]:
        raise _no_classifier(model, f"a {found.__name__} with {strange[0]}, which was not trained")
    made.config.use_cache = True
    return made


def _no_classifier(model: PreTrainedModel, got: str) -> ModelError:
    return ModelError(
        f"a {model.config.model_type} with a head of its own cannot be exported",
        got=got,
        expected="a sequence classifier of this type, whose head is called score",
        fix="choose another base: Llama, Mistral, Qwen and Gemma have one",
    )
