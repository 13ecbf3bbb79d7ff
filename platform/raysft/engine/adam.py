"""Whole fp32 weights, gradients and Adam moments of the trained parameters, in and out of a DeepSpeed engine.

Private names of DeepSpeed 0.19.8 are used here; tests/parity would notice a change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_grad,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_grad,
    safe_set_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_grad,
    safe_set_local_optimizer_state,
)
from torch import Tensor, nn

MOMENTS = ("exp_avg", "exp_avg_sq")


class AdamState:
    """Collective over the replicas that hold the same parameters: each method at the same point.

    Also the Parameters that a method's acts change (model/methods/acts.py).
    """

    def __init__(
        self, engine: Any, adam: torch.optim.Optimizer, trained: Mapping[str, nn.Parameter], stage: int, *, bf16: bool
    ) -> None:
        """engine: DeepSpeed's, whose optimizer wraps `adam`. stage: of ZeRO, as DeepSpeed runs it."""
        self._engine, self._adam, self._trained = engine, adam, trained
        self._stage, self._bf16 = stage, bf16
        self._prime()

    @property
    def is_plain(self) -> bool:
        """fp32 ZeRO 0: DeepSpeed leaves the torch optimizer as it is."""
        return self._stage == 0

    def num_updates(self) -> Tensor:
        """Updates made: [] float32 on CPU."""
        step: Tensor = next(iter(self._adam.state.values()))["step"]
        return step.float().cpu()

    def read(self, name: str) -> Iterator[tuple[str, Tensor]]:
        """(`<kind>:<name>`, whole fp32 tensor where it lies) for weight and moments of one parameter."""
        parameter = self._trained[name]
        if self.is_plain:
            yield f"weight:{name}", parameter.detach()
            for moment in MOMENTS:
                yield f"{moment}:{name}", self._adam.state[parameter][moment]
        else:
            yield f"weight:{name}", safe_get_full_fp32_param(parameter)
            for moment in MOMENTS:
                yield f"{moment}:{name}", safe_get_full_optimizer_state(parameter, moment)

    def restore(self, restored: Mapping[str, Tensor]) -> None:
        """Moments, number of updates and (under ZeRO) fp32 masters from whole tensors."""
        for slot in self._adam.state.values():
            slot["step"] = restored["adam_step"].to(slot["step"].device, copy=True)
        for name, parameter in self._trained.items():
            moments = {moment: restored[f"{moment}:{name}"].to(parameter.device) for moment in MOMENTS}
            if self.is_plain:
                self._adam.state[parameter].update({moment: value.clone() for moment, value in moments.items()})
                continue
            self._set_master(parameter, restored[f"weight:{name}"].to(parameter.device))
            for moment, value in moments.items():
                if self._stage == 3:
                    safe_set_local_optimizer_state(parameter, _own_range(parameter, value), moment)
                else:
                    safe_set_full_optimizer_state(parameter, value, moment)

    def weight(self, name: str) -> Tensor:
        """See Parameters."""
        parameter = self._trained[name]
        found: Tensor = parameter.detach() if self.is_plain else safe_get_full_fp32_param(parameter)
        return found

    def set_weight(self, name: str, value: Tensor) -> None:
        """See Parameters. The master and what the passes compute with."""
        parameter = self._trained[name]
        if not self.is_plain:
            self._set_master(parameter, value)
        with torch.no_grad():
            if self._stage == 3:
                with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
                    parameter.copy_(value)
            else:
                parameter.copy_(value)

    def gradient(self, name: str) -> Tensor:
        """See Parameters."""
        found: Tensor = safe_get_full_grad(self._trained[name])
        return found

    def set_gradient(self, name: str, value: Tensor) -> None:
        """See Parameters."""
        parameter: Any = self._trained[name]  # with what DeepSpeed has hung on it
        if self._stage == 3:
            safe_set_local_grad(parameter, _own_range(parameter, value))
        elif self._bf16 and self._stage == 1:  # safe_set_full_grad would write into the pass's own gradient
            parameter._hp_grad.copy_(value.reshape(parameter._hp_grad.shape))
        else:
            safe_set_full_grad(parameter, value)
            self._set_norm(parameter, value)

    def _set_norm(self, parameter: nn.Parameter, gradient: Tensor) -> None:
        """With optimizer states in host memory ZeRO 1 and 2 took the norm of each gradient in the backward pass."""
        zero = self._engine.optimizer
        if self.is_plain or not zero.cpu_offload:
            return
        key = zero.get_param_id(parameter)
        if key in zero.norm_for_param_grads:  # a part of it is this rank's
            _, start, _, count = zero.grad_position[key]
            zero.norm_for_param_grads[key] = gradient.flatten()[start : start + count].float().norm()

    def _set_master(self, parameter: nn.Parameter, value: Tensor) -> None:
        """The fp32 weight that the optimizer steps on, under ZeRO."""
        if self._stage == 3:
            safe_set_local_fp32_param(parameter, _own_range(parameter, value))
        else:
            safe_set_full_fp32_param(parameter, value)

    def _prime(self) -> None:
        """Give every parameter its (zero) Adam state before the first step, and link it.

        Moments can only be read and set where they exist. DeepSpeed links them after the first group's first
        step, when further groups have none yet and then never get any (0.19.8, stage_1_and_2.py).
        """
        for key in self._trained.values() if self.is_plain else self._flat_partitions():
            moments = {moment: torch.zeros_like(key, memory_format=torch.preserve_format) for moment in MOMENTS}
            self._adam.state[key] = {"step": torch.zeros((), device=key.device), **moments}
        if 0 < self._stage < 3:
            self._engine.optimizer._lazy_init_hp_params_optimizer_state()

    def _flat_partitions(self) -> list[Tensor]:
        """This rank's flat fp32 partitions, the keys of Adam's state."""
        zero = self._engine.optimizer
        if self._stage == 3:
            flats: list[Tensor] = zero.fp32_partitioned_groups_flat
        elif self._stage == 1 and self._bf16:
            flats = zero.fp32_groups_flat_partition
        else:
            flats = zero.single_partition_of_fp32_groups
        return flats


def _own_range(parameter: Any, value: Tensor) -> Tensor:
    """This rank's range of a whole value under ZeRO 3. All ranges are equal: the last may reach past the value's end.

    DeepSpeed's setters of whole values refuse one that the ranks do not divide.
    """
    size, rank = parameter.ds_tensor.numel(), dist.get_rank(parameter.ds_process_group)
    own = value.flatten()[size * rank : size * (rank + 1)]
    return nn.functional.pad(own, (0, size - own.numel()))
