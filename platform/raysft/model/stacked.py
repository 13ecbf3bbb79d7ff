"""Experts that lie one by one in the files and are one tensor in the model: which tensors it is a stack of.

transformers stacks them when it loads (a WeightConverter). Where it only puts whole tensors behind each other, a
range of the stack is read from them; any other computation needs the whole model (outline.py).

Shapes: E experts, K tensors of each, I rows and D columns of one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    Concatenate,
    MergeModulelist,
    WeightConverter,
    WeightRenaming,
    WeightTransform,
    dot_natural_key,
    rename_source_key,
)

from raysft.model.fresh import FreshTensor
from raysft.model.stored import StoredTensor


@dataclass(frozen=True)
class StackedTensor:
    """[E, K * I, ...] in the model; in the files E * K tensors [I, ...], those of an expert behind each other."""

    parts: tuple[StoredTensor, ...]
    shape: torch.Size
    name: str

    def read(self, into: Tensor, start: int = 0) -> None:
        """See StoredTensor.read."""
        size, done = self.parts[0].shape.numel(), 0
        while done < into.numel():
            number, first = divmod(start + done, size)
            piece = into[done : done + size - first]
            self.parts[number].read(piece, first)
            done += piece.numel()


Source = StoredTensor | StackedTensor | FreshTensor
"""What a parameter is read from, or made of."""


def sources(
    stored: Mapping[str, StoredTensor], empty: PreTrainedModel
) -> tuple[dict[str, Source], list[WeightTransform]]:
    """What transformers would load into a model: stacks by their name in the model, the others by that in the files;
    and what it would undo when it saves the model.

    empty: the model on torch's meta device. Raises ValueError, saying why, where it computes more than stacks.
    """
    mapping = get_model_conversion_mapping(empty)
    renamings = [one for one in mapping if isinstance(one, WeightRenaming)]
    converters = [one for one in mapping if isinstance(one, WeightConverter)]
    converter_of = {pattern: one for one in converters for pattern in one.source_patterns}
    shapes = {name: tensor.shape for name, tensor in empty.state_dict().items()}
    found: dict[str, Source] = {}
    stacks: dict[str, dict[str, list[StoredTensor]]] = {}
    for name in sorted(stored, key=dot_natural_key):  # the order in which transformers stacks
        target, pattern = rename_source_key(name, renamings, converters, empty.base_model_prefix, empty.state_dict())
        if pattern is None:
            found[name] = stored[name]
        else:
            stacks.setdefault(target, {}).setdefault(pattern, []).append(stored[name])
    for target, by_pattern in stacks.items():
        converter = converter_of[next(iter(by_pattern))]
        columns = [by_pattern.get(pattern, []) for pattern in converter.source_patterns]
        found[target] = _stack(target, columns, converter, shapes.get(target))
    return found, [one for one in mapping if one.was_used()]


def _stack(
    target: str, columns: Sequence[list[StoredTensor]], converter: WeightConverter, shape: torch.Size | None
) -> StackedTensor:
    """columns: K lists of E tensors. Raises ValueError."""
    first = columns[0][0] if columns[0] else None
    parts = tuple(part for row in zip(*columns, strict=False) for part in row)
    is_plain = [_step(operation) for operation in converter.operations] in (
        [["stack", 0]],
        [["stack", 0], ["join", 1]],
    )
    has_join = len(converter.operations) > 1
    if not is_plain or len(converter.target_patterns) > 1 or has_join != (len(columns) > 1):
        raise ValueError(f"transformers computes {target} from several tensors of its files")
    if first is None or any(len(column) != len(columns[0]) for column in columns):
        raise ValueError(f"some of the tensors that {target} is put together from are not in its files")
    expected = torch.Size([len(columns[0]), len(columns) * first.shape[0], *first.shape[1:]])
    if shape != expected or any(part.shape != first.shape for part in parts):
        raise ValueError(f"tensors that {target} is put together from have other shapes than config.json says")
    return StackedTensor(parts, expected, target)


def _step(operation: Any) -> list[object]:
    """What an operation of a converter does, and along which axis."""
    if type(operation) is MergeModulelist:
        return ["stack", operation.dim]
    return ["join", operation.dim] if type(operation) is Concatenate else []
