"""Placeholders become weights: each rank reads what it keeps, in the precision that it keeps (decision 034).

Owns which part of a tensor that is: the whole, its shard of an axis, or its range of the flat tensor (ZeRO 3).
Private names of DeepSpeed 0.19.8 are used here; tests/parity would notice a change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.runtime.swap_tensor.partitioned_param_swapper import PartitionedParamStatus
from deepspeed.runtime.zero.partition_parameters import free_param
from torch import Tensor, nn

from raysft.engine.ds_config import deepspeed_config
from raysft.engine.parameters import hf_name
from raysft.engine.slices import Saved
from raysft.engine.together import on_every_rank
from raysft.errors import RaysftError
from raysft.model.outline import Unread, placeholder
from raysft.model.stacked import Source, StackedTensor
from raysft.recipe.resolve import ResolvedRun


def compute(unread: Unread) -> None:
    """Give adapters what they begin with of weights that are still in their files. Collective: raises ModelError on
    every rank. Before a layer is cut: each rank reads every so-many-th weight, in fp32, for all."""
    computed = unread.computed
    if not computed:
        return
    values = [torch.zeros_like(one.parameter) for one in computed]

    def act() -> None:
        for value, one in list(zip(values, computed, strict=True))[dist.get_rank() :: dist.get_world_size()]:
            value.copy_(one.compute(unread.source(one.weight).read).view_as(value))

    with torch.no_grad():
        _on_every_rank(act, unread)
        together = torch.cat([value.view(-1) for value in values])
        dist.all_reduce(together)
        for one, value in zip(computed, together.split([value.numel() for value in values]), strict=True):
            one.parameter.copy_(value.view_as(one.parameter))


def fill(
    named: Iterable[tuple[str, nn.Parameter]],
    unread: Unread,
    run: ResolvedRun,
    restored: Saved | None,
    shard: int = 0,
) -> None:
    """Read these parameters (by HF name), or their shards. Collective: raises ModelError on every rank.

    Trained ones that are restored get memory only. shard: number of this rank among those that cut a layer; the shape
    of a placeholder that was cut is that of the shard.
    """
    dtype = working_dtype(run)

    def act() -> None:
        for name, parameter in named:
            if parameter not in unread:
                continue
            pack, shape, device = unread.pack(parameter), parameter.shape, parameter.device
            stored = unread.take(parameter)
            value = torch.empty(shape, dtype=torch.float32 if pack else dtype, device=device)
            if restored is None or f"weight:{name}" not in restored:
                _read(stored, value, shard)
            if pack:
                pack(value)
            else:
                parameter.data = value

    _on_every_rank(act, unread)


def partition(
    module: nn.Module, unread: Unread, run: ResolvedRun, device: torch.device, restored: Saved | None
) -> None:
    """Make a module one of ZeRO 3: every parameter partitioned, placeholders by reading this rank's range alone.

    As DeepSpeed does it with a whole module, parameter by parameter in the same order; a parameter that is no
    placeholder (an adapter's) is taken from rank 0. Collective: raises ModelError on every rank.
    """
    deepspeed.init_distributed(dist_init_required=False)  # takes the groups of torch.distributed as they are
    dtype, offload = working_dtype(run), run.recipe.parallel.offload
    zero = deepspeed.zero.Init(  # of nothing: it switches on what it does for all modules
        module=nn.Identity(),
        config_dict_or_path=deepspeed_config(run),
        dtype=dtype,
        remote_device=None if offload == "none" else offload,
        pin_memory=offload != "none" and run.recipe.cluster.gpus_per_worker > 0,
    )
    has_copies = run.recipe.parallel.secondary_shards > 1  # made of whole weights
    waiting: list[tuple[Any, Callable[[Tensor, int], None]]] = []
    for name, parameter in module.named_parameters():
        if parameter not in unread:
            parameter.data = parameter.data.to(dtype)
            zero._convert_to_zero_parameters([parameter])
            continue
        key, stored = f"weight:{hf_name(name)}", unread.take(parameter)
        source = partial(restored.read, key) if restored is not None and key in restored else stored.read
        parameter.data = placeholder(parameter.shape, device, dtype)
        waiting.append((parameter, source))
        zero._convert_to_deepspeed_param(parameter)  # numbers it

    def act() -> None:
        for parameter, read in waiting:
            if has_copies:
                parameter.data = torch.empty(parameter.shape, dtype=dtype, device=device)
                read(parameter.data.view(-1), 0)
                parameter.partition()
            else:
                _keep_own(zero, parameter, read)

    _on_every_rank(act, unread)


def _keep_own(zero: Any, parameter: Any, read: Callable[[Tensor, int], None]) -> None:
    """What Init._partition_param does, without a whole tensor to take the range from. parameter: converted.

    read: fills a flat tensor with the elements from a number on.
    """
    size = -(-parameter.ds_numel // parameter.ds_zero_partition_world_size)
    start = size * parameter.ds_zero_partition_rank
    own = torch.empty(size, dtype=parameter.dtype, device=zero.remote_device, pin_memory=zero.pin_memory)
    read(own[: max(0, parameter.ds_numel - start)], start)
    parameter.ds_tensor = own
    parameter.ds_tensor.ds_numel = size
    parameter.ds_tensor.status = PartitionedParamStatus.AVAILABLE
    parameter.ds_tensor.final_location = None
    parameter.ds_numel_aligned = size * parameter.ds_zero_partition_world_size
    free_param(parameter)


def working_dtype(run: ResolvedRun) -> torch.dtype:
    """Precision of the weights in the passes. DeepSpeed casts to it, and takes masters from what it has cast."""
    return torch.bfloat16 if run.recipe.train.precision == "bf16" else torch.float32


def _on_every_rank(act: Callable[[], None], unread: Unread) -> None:
    try:
        on_every_rank(act)
    except RaysftError:
        unread.forget()
        raise


def _read(stored: Source, value: Tensor, shard: int) -> None:
    """The whole tensor, or the shard that `value` has room for."""
    axis = next((i for i, (a, b) in enumerate(zip(value.shape, stored.shape, strict=True)) if a != b), None)
    if axis is None:
        stored.read(value.view(-1))
    else:
        assert not isinstance(stored, StackedTensor), "no family with stacked experts is cut into shards"
        stored.read_part(value, axis, shard * value.shape[axis])
