"""Sizes of methods that put virtual tokens before every sample, as the planner counts them. Pure."""

from __future__ import annotations

from raysft.recipe.facts import ModelShape
from raysft.recipe.sections.method import PrefixMethod, PromptMethod, PTuningMethod


def prompt_parameters(method: PromptMethod, shape: ModelShape) -> int:
    """An embedding for each virtual token (arXiv:2104.08691)."""
    return method.virtual_tokens * shape.hidden_size


def prompt_details(method: PromptMethod) -> str:
    """All of its numbers in a few words."""
    return f"{method.virtual_tokens} virtual tokens before every sample, begun with {method.init} embeddings"


def p_tuning_parameters(method: PTuningMethod, shape: ModelShape) -> int:
    """The embeddings that the network reads, and the network (arXiv:2103.10385), as peft lays it out."""
    size, width = shape.hidden_size, method.hidden_size or shape.hidden_size
    embeddings = method.virtual_tokens * size
    if method.encoder == "mlp":
        return embeddings + _linear(size, width) + _linear(width, width) + _linear(width, size)
    lstm = sum(2 * _lstm(size if layer == 0 else 2 * width, width) for layer in range(method.layers))
    return embeddings + lstm + _linear(2 * width, 2 * width) + _linear(2 * width, size)


def p_tuning_details(method: PTuningMethod) -> str:
    """All of its numbers in a few words."""
    width = f" {method.hidden_size} wide" if method.hidden_size else ""
    layers = f" of {method.layers} layers" if method.encoder == "lstm" else ""
    return (
        f"{method.virtual_tokens} virtual tokens before every sample, by an {method.encoder.upper()}{layers}{width}"
    )


def prefix_parameters(method: PrefixMethod, shape: ModelShape) -> int:
    """Keys and values of each virtual token in each layer (arXiv:2101.00190), or what makes them."""
    size = shape.num_kv_heads * shape.head_size
    made = 2 * shape.num_layers * size
    if not method.projection:
        return method.virtual_tokens * made
    width = method.hidden_size or size
    return method.virtual_tokens * size + _linear(size, width) + _linear(width, made)


def prefix_details(method: PrefixMethod) -> str:
    """All of its numbers in a few words."""
    width = f" {method.hidden_size} wide" if method.hidden_size else ""
    network = f", by a network{width}" if method.projection else ""
    return f"keys and values of {method.virtual_tokens} virtual tokens before every sample{network}"


def _linear(inputs: int, outputs: int) -> int:
    return (inputs + 1) * outputs


def _lstm(inputs: int, width: int) -> int:
    """One layer in one direction: four gates, each with two biases (torch.nn.LSTM)."""
    return 4 * width * (inputs + width + 2)
