"""Where in a transformers model the text is read: the module that turns tokens into hidden states.

Owns how it is found. A text model is that module and a head; a multimodal one has towers beside them.
"""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from raysft.errors import ModelError
from raysft.model.encoder import POOLER, head_of_encoder, is_bare


def decoder(model: PreTrainedModel) -> PreTrainedModel:
    """The module whose first output is what the head reads. Raises ModelError.

    transformers' base_model, but where base_model_prefix names no attribute (llama4_text) or the base model reads
    images as well (gemma3).
    """
    if is_bare(model):
        return model
    is_multimodal = model.config.get_text_config() is not model.config
    found = model.get_decoder() if is_multimodal else model.base_model
    if found is model:
        inner = [child for child in model.children() if isinstance(child, PreTrainedModel)]
        found = inner[0] if len(inner) == 1 else None
    if not isinstance(found, PreTrainedModel):
        raise ModelError(
            f"raysft does not find the decoder of this model ({model.config.model_type})",
            got=f"a {type(model).__name__} with {', '.join(name for name, _ in model.named_children())}",
            expected="a decoder with a language-model head",
            fix="choose a text model, or report the model type",
        )
    return found


TASK_HEAD = "score"
"""Name of an objective's own head beside the LM head, as transformers' sequence classifiers call theirs."""


def task_head(model: PreTrainedModel) -> nn.Module | None:
    """The head that an objective has put on (heads.py), or that an encoder's classifier has; None: neither."""
    own = head_of_encoder(model)
    return dict(model.named_children()).get(TASK_HEAD) if own is None else own


def decoder_layers(model: PreTrainedModel) -> list[nn.Module]:
    """The layers that hidden states pass one after another, first to last; none where they are not in one list.

    Raises ModelError.
    """
    lists = [module for module in decoder(model).modules() if isinstance(module, nn.ModuleList)]
    count = model.config.get_text_config().num_hidden_layers
    return next((list(found) for found in lists if len(found) == count), [])


def unread(model: PreTrainedModel) -> dict[str, nn.Module]:
    """{name: module} of what no text passes, or nothing reads: vision and audio towers, projectors; the pooler of an
    encoder without a head. Largest parts only."""
    if is_bare(model):
        return {name: module for name, module in model.named_children() if name == POOLER}
    used = {id(module) for module in decoder(model).modules()}
    for head in (model.get_output_embeddings(), task_head(model)):
        if isinstance(head, nn.Module):
            used |= {id(module) for module in head.modules()}
    return dict(_unused(model, used))


def _unused(module: nn.Module, used: set[int], prefix: str = "") -> list[tuple[str, nn.Module]]:
    found: list[tuple[str, nn.Module]] = []
    for name, child in module.named_children():
        if id(child) in used:
            continue
        if any(id(part) in used for part in child.modules()):
            found += _unused(child, used, f"{prefix}{name}.")
        elif next(child.parameters(), None) is not None:
            found.append((prefix + name, child))
    return found
