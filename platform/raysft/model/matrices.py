"""Which weights are matrices that turn one vector into another: what Muon moves. Not rows of tokens or of labels, not
numbers of channels.
"""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from raysft.model.decoder import task_head
from raysft.model.heads import AUXILIARY


def matrices(module: nn.Module) -> dict[str, nn.Parameter]:
    """{name: trained matrix} of linear layers, [rows, columns], and of experts in one parameter, [experts, rows,
    columns]. A head is none: its rows are tokens, as those of the embedding, or what is told of a sample."""
    models = [model for model in module.modules() if isinstance(model, PreTrainedModel)]
    heads = {head for model in models if (head := model.get_output_embeddings()) is not None}
    own = [head for model in models if (head := task_head(model)) is not None]
    heads |= {part for head in own for part in head.modules()}
    tokens = {
        parameter
        for owner in module.modules()
        if owner in heads or isinstance(owner, nn.Embedding)
        for parameter in owner.parameters(recurse=False)
    }
    return {
        f"{path}.{name}" if path else name: parameter
        for path, owner in module.named_modules()
        if not path.startswith(AUXILIARY)
        for name, parameter in owner.named_parameters(recurse=False)
        if parameter.requires_grad and parameter not in tokens and _is_matrix(owner, parameter)
    }


def _is_matrix(owner: nn.Module, parameter: nn.Parameter) -> bool:
    """Is a parameter of this module that of a linear layer, or of experts?"""
    if isinstance(owner, nn.Linear | Conv1D):  # Conv1D: GPT-2's linear layer
        return parameter.ndim == 2 and min(parameter.shape) > 1
    is_convolution = isinstance(owner, nn.modules.conv._ConvNd)
    return parameter.ndim == 3 and min(parameter.shape[1:]) > 1 and not is_convolution
