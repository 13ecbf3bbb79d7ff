"""Tensor parallelism on DeepSpeed's AutoTP layers: which layers are cut how.

Megatron's scheme (Shoeybi et al. 2019, arXiv:1909.08053): the layers into attention and MLP are cut by their outputs
(columns), the layers out of them by their inputs (rows). Embeddings, norms and the LM head are whole on every rank.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.module_inject.layers import LinearAllreduce, LinearLayer, set_autotp_mode
from deepspeed.utils import groups
from torch import Tensor, nn

from raysft.engine.parameters import hf_name, use_no_compiler
from raysft.engine.slices import Cut
from raysft.errors import ModelError
from raysft.model.outline import is_placeholder, placeholder
from raysft.recipe.facts import ModelShape


def forget_groups() -> None:
    """DeepSpeed keeps the groups of the last engine for the next, which may need others. Collective.

    They are destroyed: each gloo group has threads that wake a hundred times a second.
    """
    for group in list(dist.distributed_c10d._world.pg_map):
        if group is not dist.group.WORLD:
            dist.destroy_process_group(group)
    groups._release_process_group_references()
    gc.collect()  # engines refer to themselves in circles, and a group's threads end with its last reference


def cut_layers(module: nn.Module, shape: ModelShape, ways: int) -> Shards:
    """Replace the module's linear layers by DeepSpeed's, each with this rank's shard of the weight. Collective.

    An adapter is cut with its layer: B with the outputs of a column layer, A with the inputs of a row layer. Done
    layer by layer, because DeepSpeed's own walk takes a peft layer for a linear one. Raises ModelError.
    """
    use_no_compiler()
    deepspeed.init_distributed(dist_init_required=False)  # takes the groups of torch.distributed as they are
    groups._init_tp_mesh_device(tensor_model_parallel_size=ways)
    group = groups.get_tensor_model_parallel_group()
    set_autotp_mode(training=True)
    whole = {hf_name(name): parameter.shape for name, parameter in module.named_parameters()}
    splits, cut = {linear.name: linear.split for linear in shape.linears}, 0
    for name, layer in list(module.named_modules()):
        found = _LAYER.fullmatch(name)
        if found is None or found["layer"] not in splits or not isinstance(layer, nn.Linear):
            continue
        split = splits[found["layer"]]
        if found["adapter"] == _WHOLE_ADAPTER[split]:
            continue
        _check_divides(name, layer.out_features if split == "column" else layer.in_features, ways)
        parent, _, child = name.rpartition(".")
        kind = LinearLayer if split == "column" else LinearAllreduce
        is_unread = is_placeholder(layer.weight)
        shard = kind(layer, group, name=name)
        if is_unread:  # DeepSpeed has made room for it
            for parameter in shard.parameters():
                parameter.data = placeholder(parameter.shape, parameter.device)
        setattr(module.get_submodule(parent), child, shard)
        cut += found["adapter"] is None
    if cut != (expected := len(splits) * shape.num_layers):
        raise ModelError(
            f"raysft does not know all linear layers of this model ({shape.model_type})",
            got=f"{cut} layers named {', '.join(splits)}",
            expected=f"{expected}: {len(splits)} in each of {shape.num_layers} decoder layers",
            fix="set parallel.tensor: 1, and parallel.zero: 3 where memory is short",
        )
    for part in module.modules():
        _correct(part, group, ways)
    marked: Any = module
    marked.ds_autotp_parsed = True  # for DeepSpeed: it needs no walk
    return Shards.of(module, whole, group)


_LAYER = re.compile(r".*?\.(?P<layer>\w+)(\.base_layer|\.lora_(?P<adapter>[AB])\.\w+)?")
_WHOLE_ADAPTER = {"column": "A", "row": "B"}
"""The half of an adapter that every rank has whole."""


def _correct(part: nn.Module, group: dist.ProcessGroup, ways: int) -> None:
    """What a module knows or computes of all heads, where it now has a part of them."""
    if "num_heads" in vars(part):
        part.num_heads = vars(part)["num_heads"] // ways
    for name, norm in part.named_children():
        if name in ("q_norm", "k_norm"):  # each rank sees the gradient of its own heads

            def sum_over_heads(gradient: Tensor) -> Tensor:
                total = gradient.contiguous()
                dist.all_reduce(total, group=group)
                return total

            for parameter in norm.parameters():
                parameter.register_hook(sum_over_heads)


def _check_divides(name: str, size: int, ways: int) -> None:
    if size % ways:
        raise ModelError(
            "a layer cannot be cut into equal shards",
            got=f"{name} with {size} features, parallel.tensor = {ways}",
            expected=f"a divisor of {size}",
            fix="set parallel.tensor to a divisor of the model's intermediate size and heads",
        )


@dataclass(frozen=True)
class Shards:
    """How the trained tensors of a model lie on the tensor-parallel ranks."""

    group: dist.ProcessGroup | None
    """None: nothing is cut."""
    cuts: Mapping[str, Cut]
    """{name: this rank's shard}; the others are whole on every rank."""
    shapes: Mapping[str, tuple[int, ...]]
    """{name: shape of the whole tensor} of those that are cut."""

    @classmethod
    def of(cls, module: nn.Module, whole: Mapping[str, torch.Size], group: dist.ProcessGroup) -> Shards:
        """From the shapes of the parameters before they were cut."""
        now = {hf_name(name): parameter.shape for name, parameter in module.named_parameters()}
        cuts = {}
        for name, shape in now.items():
            if shape != whole[name]:
                axis = next(i for i, (a, b) in enumerate(zip(shape, whole[name], strict=True)) if a != b)
                cuts[name] = Cut(axis, shape[axis] * group.rank(), shape[axis] * (group.rank() + 1))
        return cls(group, cuts, {name: tuple(whole[name]) for name in cuts})

    @property
    def rank(self) -> int:
        """Number of this rank among those that hold the shards."""
        return 0 if self.group is None else self.group.rank()

    def norm(self, gradients: Mapping[str, Tensor]) -> float:
        """L2 norm of the gradients of the whole tensors: shards are summed over the ranks, the others count once."""
        cut = [gradient for name, gradient in gradients.items() if name in self.cuts]
        same = [gradient for name, gradient in gradients.items() if name not in self.cuts]
        squares = torch.nn.utils.get_total_norm(same).double() ** 2
        if cut:
            shards = torch.nn.utils.get_total_norm(cut).double() ** 2
            dist.all_reduce(shards, group=self.group)
            squares = squares + shards
        return float(squares.sqrt())


WHOLE = Shards(None, {}, {})
"""Nothing is cut."""
