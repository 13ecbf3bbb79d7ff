"""A model that no single device of a task holds: its decoder layers lie on several, the rest of them in host memory,
or in files, from where each comes when its turn is.

Owns which part lies where. accelerate moves hidden states from device to device, and layers in and out. What is
outside of the layers (embedding, norms, head) is on the first device, where others use it directly.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from accelerate import dispatch_model
from accelerate.utils import offload_weight, save_offload_index
from torch import Tensor, nn
from transformers import PreTrainedModel

from raysft.errors import ModelError
from raysft.model.decoder import decoder_layers
from raysft.model.outline import placeholder

logger = logging.getLogger(__name__)

Place = torch.device | str
"""A device, HOST or FILES."""
HOST, FILES = "cpu", "disk"
"""accelerate's names for layers that wait in host memory, or in files."""
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Room:
    """Where a model may lie, in the order in which it is filled."""

    devices: Mapping[torch.device, float]
    """{device: bytes for weights}: GPUs, or the CPU alone."""
    host: float = 0.0
    """Bytes of host memory for layers that no GPU holds."""
    folder: str = ""
    """For the files of layers that fit nowhere else; empty: there are to be none."""

    @property
    def main(self) -> torch.device:
        """Where what goes into the model and comes out of it lies."""
        return next(iter(self.devices))


def unlimited(device: torch.device) -> Room:
    """A device that holds whatever comes."""
    return Room({device: float("inf")})


def spread(
    model: PreTrainedModel,
    read: Callable[[nn.Parameter], Tensor],
    dtypes: Mapping[str, torch.dtype],
    room: Room,
) -> PreTrainedModel:
    """Give every parameter its weights, one by one, where it is to lie; the model then computes as it always does.

    read: the weights of a parameter. dtypes: {name of a parameter or buffer: what it is cast to}. Raises ModelError
    where there is no room.
    """
    places = _places(model, dtypes, room)
    index: dict[str, dict[str, object]] = {}
    for name, parameter in model.named_parameters():
        place, value = _place_of(name, places, room), read(parameter).to(dtypes[name])
        if place == FILES:
            offload_weight(value, name, room.folder, index)
            parameter.data = placeholder(value.shape, CPU, value.dtype)
        else:
            parameter.data = value.to(place)
    for name, buffer in model.named_buffers():
        place = _place_of(name, places, room)
        buffer.data = buffer.data.to(room.main if place in (HOST, FILES) else place, dtypes[name])
    if len({*places.values()}) > 1:
        _tell(places)
        if index:
            save_offload_index(index, room.folder)
        dispatch_model(
            model,
            {part: str(place) for part, place in places.items()},
            main_device=str(room.main),
            offload_dir=room.folder if index else None,
            skip_keys=model._skip_keys_device_placement,  # the cache of an answer: each layer's lies where it does
            preload_module_classes=sorted({type(layer).__name__ for layer in decoder_layers(model)}),
        )
    return model


def _tell(places: Mapping[str, Place]) -> None:
    """Layers that come from elsewhere for each pass make it slow."""
    for place, words in ((HOST, "host memory"), (FILES, "files")):
        if waiting := sum(one == place for one in places.values()):
            logger.warning("%d of the model's layers wait in %s: each pass brings them (slow)", waiting, words)


def _places(model: PreTrainedModel, dtypes: Mapping[str, torch.dtype], room: Room) -> dict[str, Place]:
    """{name of a module: its place}: of each decoder layer and of what is outside of them."""
    sizes = {name: dtypes[name].itemsize * parameter.numel() for name, parameter in model.named_parameters()}
    layers = {id(layer) for layer in decoder_layers(model)}
    parts = list(_parts(model, layers))
    held = {part: sum(size for name, size in sizes.items() if _is_below(name, part)) for part, _ in parts}
    found: dict[str, Place] = {part: room.main for part, is_layer in parts if not is_layer}
    waiting = [part for part, is_layer in parts if is_layer]
    left = dict(room.devices)
    left[room.main] -= sum(held[part] for part in found)
    # a layer that waits somewhere else needs a place to compute in
    if sum(held.values()) > sum(room.devices.values()):
        left[room.main] -= max((held[part] for part in waiting), default=0)
    _check_room(left[room.main], sum(held.values()), room)
    return found | dict(zip(waiting, _filled([held[part] for part in waiting], left, room), strict=True))


def _filled(sizes: list[int], left: dict[torch.device, float], room: Room) -> Iterator[Place]:
    """The place of each layer, in their order: device after device, then host memory, then files."""
    wanted: list[tuple[Place, float]] = [*left.items()]
    if room.main != CPU:
        wanted.append((HOST, room.host))
    place, free = wanted.pop(0)
    for size in sizes:
        while size > free and wanted:
            place, free = wanted.pop(0)
        if size > free and place != FILES:
            _check_folder(sum(sizes), room)
            place, free = FILES, float("inf")
        free -= size
        yield place


def _parts(module: nn.Module, layers: set[int], prefix: str = "") -> Iterator[tuple[str, bool]]:
    """(name, is it a decoder layer) of modules that hold everything between them, none a part of another."""
    for name, child in module.named_children():
        if id(child) in layers:
            yield prefix + name, True
        elif any(id(part) in layers for part in child.modules()):
            yield from _parts(child, layers, f"{prefix}{name}.")
        else:
            yield prefix + name, False


def _is_below(name: str, part: str) -> bool:
    return name.startswith(f"{part}.")


def _place_of(name: str, places: Mapping[str, Place], room: Room) -> Place:
    """A parameter's or a buffer's; one that a module around the layers has is outside of them."""
    return next((place for part, place in places.items() if _is_below(name, part)), room.main)


def _check_room(left: float, whole: int, room: Room) -> None:
    if left < 0:
        there = f"{room.devices[room.main] / 2**30:.2f} GiB on {room.main}"
        raise ModelError(
            "the model cannot be evaluated here",
            got=f"{there} for {whole / 2**30:.2f} GiB of weights",
            expected="room for embedding, head and one decoder layer at least",
            fix="use workers with more memory, or measure the export elsewhere (`raysft evaluate --model`)",
        )


def _check_folder(size: int, room: Room) -> None:
    free = shutil.disk_usage(room.folder).free if room.folder else 0
    if size > free:
        raise ModelError(
            "the model cannot be evaluated here",
            got=f"layers that no device and no host memory hold, and {free / 2**30:.2f} GiB of disk",
            expected=f"at most {size / 2**30:.2f} GiB for them in {room.folder or 'a folder'}",
            fix="use workers with more memory, or set TMPDIR to a larger disk (cluster.env)",
        )
