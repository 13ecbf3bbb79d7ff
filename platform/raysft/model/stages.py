"""A decoder cut into pipeline stages: consecutive layers that still run in the model's own forward.

Which types can be cut, and where, is in recipe/families.py; the engine wraps and connects the stages.

A stage is the transformers model itself with its other layers taken out, fed with hidden states. So rotary
positions, masks of sliding and full layers, segment borders and gradient checkpointing are made on every stage
by the model's own code, from position_ids alone, and adapters stay where peft put them.

Shapes: B rows, T tokens a row, D hidden size.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from raysft.errors import ModelError
from raysft.model.fast.attention import Borders, segment_arguments
from raysft.model.fast.loss import OutputHead, output_head
from raysft.recipe.families import CUT_INTO_STAGES, StageNames, family_of
from raysft.recipe.stage_balance import balance


class Stage(nn.Module):
    """forward(input_ids or hidden, position_ids) -> hidden [B, T, D]."""

    def __init__(self, model: PreTrainedModel, layers: range) -> None:
        """Cuts `model` in place: what is outside `layers` is let go."""
        super().__init__()
        shape, body = _find(model)
        is_first, is_last = layers.start == 0, layers.stop == len(_layers(body, shape))
        self.embedding = body.get_submodule(shape.embedding) if is_first else None
        self.head: OutputHead | None = output_head(model) if is_last else None
        self.head_module = self.head.module if self.head else None
        self.body = model.base_model
        _keep(body, shape, layers)
        setattr(body, shape.embedding, None)
        if not is_first:
            for name in filter(None, (shape.embedding_dropout, shape.project_in)):
                _drop(body, name)
            if shape.positions:
                setattr(body, shape.positions, _NoPositions())
        if not is_last:
            for name in filter(None, (shape.norm, shape.project_out)):
                _drop(body, name)

    def forward(self, inputs: Tensor, position_ids: Tensor, borders: Borders | None = None) -> Tensor:
        """inputs: [B, T] int64 on the first stage, [B, T, D] on the others. The others: see loss.hidden_states."""
        hidden = inputs if self.embedding is None else self.embedding(inputs)
        if torch.is_grad_enabled() and not hidden.requires_grad:
            hidden.requires_grad_()  # frozen embeddings: what the next stage sends back must find a graph
        assert isinstance(self.body, PreTrainedModel)
        segments = segment_arguments(self.body, position_ids, borders)
        answer: Tensor = self.body(inputs_embeds=hidden, position_ids=position_ids, use_cache=False, **segments)[0]
        return answer


def stage_layers(model: PreTrainedModel, num_stages: int) -> list[range]:
    """The decoder layers of each stage, so that the slowest stage is as fast as can be.

    Raises ModelError for a model that cannot be cut so. Cost of a layer: the weights that each token is
    multiplied with (forward and backward are multiples of it); the head counts to the last layer.
    """
    shape, body = _find(model)
    costs = [_num_weights(layer) for layer in _layers(body, shape)]
    if num_stages > len(costs):
        raise ModelError(
            "there are more pipeline stages than layers",
            got=f"{num_stages} stages, {len(costs)} layers",
            expected="a layer for every stage",
            fix=f"set parallel.pipeline to {len(costs)} or less",
        )
    costs[-1] += _num_weights(output_head(model).module)
    return balance(costs, num_stages)


def _find(model: PreTrainedModel) -> tuple[StageNames, PreTrainedModel]:
    """The shape of a model, and the module that loops over its layers."""
    shape = family_of(model.config.model_type).stage
    if shape is None:
        raise ModelError(
            "this model type cannot be cut into pipeline stages",
            got=f"model_type {model.config.model_type}",
            expected=f"one of {', '.join(sorted(CUT_INTO_STAGES))}",
            fix="set parallel.pipeline: 1 and split the model by parallel.tensor or parallel.zero: 3",
        )
    body = model.base_model.get_submodule(shape.body)
    assert isinstance(body, PreTrainedModel)
    return shape, body


def _layers(body: PreTrainedModel, shape: StageNames) -> list[nn.Module]:
    return list(body.get_submodule(shape.layers).children())


def _keep(body: PreTrainedModel, shape: StageNames, layers: range) -> None:
    """Leave these layers, and in the config that the loop reads only their types."""
    kept = _layers(body, shape)[layers.start : layers.stop]
    setattr(body, shape.layers, nn.ModuleList(kept))
    body.config = copy.deepcopy(body.config)  # attention modules keep the whole one
    types = vars(body.config).get("layer_types")
    if types:
        vars(body.config)["layer_types"] = types[layers.start : layers.stop]


def _drop(body: nn.Module, name: str) -> None:
    """Take a module out of the way; where the model has none (None), it stays so."""
    if body._modules.get(name) is not None:
        setattr(body, name, nn.Identity())


def _num_weights(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.ndim >= 2)


class _NoPositions(nn.Module):
    """Learned positions were added on the first stage."""

    def forward(self, *_: object, **__: object) -> Tensor:
        """[]: adds nothing, in any dtype."""
        return torch.zeros(())
