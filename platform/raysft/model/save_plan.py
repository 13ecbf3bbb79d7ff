"""A model into safetensors files, tensor by tensor: names and shards as save_pretrained writes them.

Owns the plan (which tensor of the model becomes which tensors of which file) and the writing. Experts that
transformers stacks when it loads are taken apart again by transformers; what it computes from several tensors of the
model at once is no stream (WholeOnlyError).
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_state_dict_into_shards_factory
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion
from transformers.modeling_utils import remove_tied_weights_from_state_dict

from raysft import storage
from raysft.model.outline import WholeOnlyError

PATTERN = "model{suffix}.safetensors"
"""Names of the files of a model: huggingface_hub puts `-00001-of-00002` there when there are several."""
_KINDS = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""In the order in which safetensors puts them into a file: wide ones first, so that each tensor is aligned."""
_BLOCK = 2**24
"""Bytes that are written at a time."""

Read = Callable[[nn.Parameter], Tensor]
"""A parameter of the model -> its weight, in any precision."""


@dataclass(frozen=True)
class Part:
    """A tensor of a file."""

    name: str
    dtype: torch.dtype
    shape: torch.Size
    source: str
    """The tensor of the model that it is, or is a part of."""

    @property
    def bytes(self) -> int:
        """Its length in the file."""
        return self.shape.numel() * self.dtype.itemsize


@dataclass(frozen=True)
class SavePlan:
    """What is written of a model."""

    model: PreTrainedModel
    files: Mapping[str, tuple[Part, ...]]
    """{name of a file: its tensors in order}."""
    metadata: Mapping[str, int]
    """What the index says besides where each tensor is."""

    def index(self) -> str | None:
        """The index, as save_pretrained writes it; None: there is one file."""
        if len(self.files) == 1:
            return None
        places = {part.name: file for file, parts in self.files.items() for part in parts}
        content = {"metadata": dict(self.metadata), "weight_map": places}
        return json.dumps(content, indent=2, sort_keys=True) + "\n"


def plan_save(model: PreTrainedModel, *, max_bytes: str | int) -> SavePlan:
    """The plan for a model of placeholders, in the precision that they have. Raises WholeOnlyError."""
    parts = _parts(model)
    split = split_state_dict_into_shards_factory(
        parts, get_storage_size=lambda part: part.bytes, filename_pattern=PATTERN, max_shard_size=max_bytes
    )
    first: dict[str, str] = {}
    for name in sorted(parts):
        first.setdefault(parts[name].source, name)
    order = list(_KINDS)

    def place(part: Part) -> tuple[int, str, str]:
        return order.index(part.dtype), first[part.source], part.name  # parts of one tensor behind each other

    files = {
        file: tuple(sorted((parts[name] for name in names), key=place))
        for file, names in split.filename_to_tensors.items()
    }
    return SavePlan(model, files, {"total_parameters": model.num_parameters(), **split.metadata})


def _parts(model: PreTrainedModel) -> dict[str, Part]:
    """What save_pretrained would write, in its order. Raises WholeOnlyError."""
    state: dict[str, Any] = model.state_dict()
    for name in model._keys_to_ignore_on_save or ():
        state.pop(name, None)
    if strange := [name for name, value in state.items() if not isinstance(value, Tensor)]:
        raise WholeOnlyError(f"{strange[0]} of its state is no tensor")
    state = remove_tied_weights_from_state_dict(state, model)
    empty = {name: torch.empty(tensor.shape, dtype=tensor.dtype, device="meta") for name, tensor in state.items()}
    alone = {
        written: Part(written, tensor.dtype, tensor.shape, name)
        for name, one in empty.items()
        for written, tensor in revert_weight_conversion(model, {name: one}).items()
    }
    together = revert_weight_conversion(model, dict(empty))
    same = {name: alone.get(name) for name in together}
    if len(alone) != len(same) or any(
        part is None or (part.dtype, part.shape) != (together[name].dtype, together[name].shape)
        for name, part in same.items()
    ):
        raise WholeOnlyError("transformers computes tensors of its files from several of the model's")
    found = {name: part for name, part in same.items() if part is not None}
    if strange := [part.name for part in found.values() if part.dtype not in _KINDS]:
        raise WholeOnlyError(f"{strange[0]} holds numbers of kind {found[strange[0]].dtype}")
    return found


def write_file(path: Path, plan: SavePlan, read: Read) -> dict[str, Any]:
    """Write one file of a plan, by its name there, atomically. Returns {bytes, sha256}, summed while it is written.

    Raises StorageError, and what `read` raises.
    """
    total, checksum = 0, hashlib.sha256()
    unfinished = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        with unfinished.open("wb") as file:
            for piece in _content(plan, plan.files[path.name], read):
                file.write(piece)
                checksum.update(piece)
                total += len(piece)
                del piece  # it holds the tensor that it is a part of, and the next one is read now
        os.replace(unfinished, path)
    except OSError as error:
        raise storage.cannot_write(str(path), error) from error
    return {"bytes": total, "sha256": checksum.hexdigest()}


def header(parts: Sequence[Part]) -> bytes:
    """What a file of these tensors begins with, to the byte as `safetensors` writes it."""
    content: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for part in parts:
        start, end = end, end + part.bytes
        content[part.name] = {
            "dtype": _KINDS[part.dtype],
            "shape": list(part.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _content(plan: SavePlan, parts: Sequence[Part], read: Read) -> Iterator[bytes | memoryview]:
    yield header(parts)
    for source, group in groupby(parts, key=lambda part: part.source):
        tensors = _tensors_of(plan, source, read)
        for part in group:
            yield from _bytes(tensors.pop(part.name), part)


def _bytes(tensor: Tensor, part: Part) -> Iterator[memoryview]:
    assert (tensor.dtype, tensor.shape) == (part.dtype, part.shape), part.name
    data = memoryview(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    for start in range(0, len(data), _BLOCK):
        yield data[start : start + _BLOCK]


def _tensors_of(plan: SavePlan, source: str, read: Read) -> dict[str, Tensor]:
    """{name in the files: tensor} of one tensor of the model."""
    kept: Any = plan.model.get_parameter_or_buffer(source)
    dtype = kept.dtype  # before it is read: a layer that is merged is in fp32
    value = read(kept) if isinstance(kept, nn.Parameter) else kept
    return dict(revert_weight_conversion(plan.model, {source: value.detach().to(dtype)}))
