"""fp32 weights, gradients and Adam moments of the trained parameters, in and out of a DeepSpeed engine.

Private names of DeepSpeed 0.19.8 are used here; tests/parity would notice a change.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_grad,
    safe_get_full_optimizer_state,
    safe_get_local_fp32_param,
    safe_get_local_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_grad,
    safe_set_local_fp32_param,
    safe_set_local_grad,
    safe_set_local_optimizer_state,
)
from torch import Tensor, nn

from raysft.engine.adafactor import Adafactor, Flat, Piece
from raysft.engine.slices import MOMENTS, Cut, Saved


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
        self._moments = () if isinstance(adam, Adafactor) else MOMENTS
        self._prime()
        if isinstance(adam, Adafactor):
            adam.bind(self._flats(), is_shared=not self.is_plain)

    @property
    def is_plain(self) -> bool:
        """fp32 ZeRO 0: DeepSpeed leaves the torch optimizer as it is."""
        return self._stage == 0

    @property
    def kinds(self) -> tuple[str, ...]:
        """See HeldState."""
        return ("weight", *self._moments)

    @property
    def further(self) -> dict[str, Tensor]:
        """{`<kind>:<name>`: fp32} that the optimizer has besides, whole on every rank."""
        return self._adam.moments if isinstance(self._adam, Adafactor) else {}

    def num_updates(self) -> Tensor:
        """Updates made: [] float32 on CPU."""
        step: Tensor = next(iter(self._adam.state.values()))["step"]
        return step.float().cpu()

    def held(self, name: str, kind: str) -> tuple[int, Tensor] | None:
        """See HeldState. No copy, and no communication."""
        parameter: Any = self._trained[name]  # with what DeepSpeed has hung on it
        if self.is_plain:
            value = parameter.detach() if kind == "weight" else self._adam.state[parameter][kind]
            return 0, value.reshape(-1)
        if self._stage == 3:
            start, count = _range_of(parameter)
            if count <= 0:
                return None
            if kind == "weight":
                return start, safe_get_local_fp32_param(parameter)[:count]
            return start, safe_get_local_optimizer_state(parameter, kind)[:count]
        fragment = parameter._hp_mapping
        if fragment is None:
            return None
        return fragment.lp_fragment_address.start, fragment.get_hp_fragment(None if kind == "weight" else kind)

    def restore(self, saved: Saved, cuts: Mapping[str, Cut]) -> None:
        """Moments, number of updates and (under ZeRO) fp32 masters, each rank what it holds. Raises as Saved.read().

        cuts: of parameters that are shards.
        """
        for name, own in self.further.items():
            own.copy_(saved.whole(name))
        updates = saved.whole("adam_step")
        for slot in self._adam.state.values():
            slot["step"] = updates.to(slot["step"].device, copy=True)
        for name, parameter in self._trained.items():
            for kind in self._moments if self.is_plain else self.kinds:
                if found := self.held(name, kind):
                    start, values = found
                    if self._stage == 3:  # what held() gives may be a copy
                        own = torch.zeros(_padded(parameter))
                        saved.read(f"{kind}:{name}", own[: values.numel()], start, cuts.get(name))
                        self._set_own(parameter, kind, own)
                    else:
                        into = self._adam.state[parameter][kind] if self.is_plain else values
                        saved.read(f"{kind}:{name}", into, start, cuts.get(name))

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

    def moment(self, name: str, kind: str) -> Tensor:
        """A whole moment, which may be the optimizer's own. kind: of MOMENTS."""
        parameter = self._trained[name]
        found: Tensor = (
            self._adam.state[parameter][kind] if self.is_plain else safe_get_full_optimizer_state(parameter, kind)
        )
        return found

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
            self._set_own(parameter, "weight", _own_range(parameter, value))
        else:
            safe_set_full_fp32_param(parameter, value)

    def _set_own(self, parameter: nn.Parameter, kind: str, own: Tensor) -> None:
        """This rank's range under ZeRO 3, padded."""
        own = own.to(parameter.device)
        if kind == "weight":
            safe_set_local_fp32_param(parameter, own)
        else:
            safe_set_local_optimizer_state(parameter, own, kind)

    def _prime(self) -> None:
        """Give every parameter its (zero) Adam state before the first step, and link it.

        Moments can only be read and set where they exist. DeepSpeed links them after the first group's first
        step, when further groups have none yet and then never get any (0.19.8, stage_1_and_2.py).
        """
        for key in self._trained.values() if self.is_plain else self._flat_partitions():
            moments = {moment: torch.zeros_like(key, memory_format=torch.preserve_format) for moment in self._moments}
            self._adam.state[key] = {"step": torch.zeros((), device=key.device), **moments}
        if 0 < self._stage < 3:
            self._engine.optimizer._lazy_init_hp_params_optimizer_state()

    def _flats(self) -> dict[Tensor, Flat]:
        """{tensor that the optimizer steps on: what lies in it}."""
        if self.is_plain:
            whole = {p: Piece(name, 0, 0, p.numel()) for name, p in self._trained.items()}
            return {p: Flat((piece.name,), (piece,)) for p, piece in whole.items()}
        flats = self._flat_partitions()
        names: list[list[str]] = [[] for _ in flats]
        pieces: list[list[Piece]] = [[] for _ in flats]
        for name, parameter in self._trained.items():
            number, piece = self._piece(name, parameter)
            names[number].append(name)
            pieces[number] += [piece] if piece.count > 0 else []
        return {flat: Flat(tuple(names[i]), tuple(pieces[i])) for i, flat in enumerate(flats)}

    def _piece(self, name: str, parameter: Any) -> tuple[int, Piece]:
        """(number of the flat partition that has a parameter on some rank, what of it is on this one)."""
        zero = self._engine.optimizer
        if self._stage == 3:
            number, offset, _ = zero.grad_position[zero.get_param_id(parameter)]
            start, count = _range_of(parameter)
            return number, Piece(name, start, offset, count)
        groups = zero.bf16_groups if self._stage == 1 and self._bf16 else zero.bit16_groups
        number = next(i for i, group in enumerate(groups) if any(p is parameter for p in group))
        fragment = parameter._hp_mapping
        if fragment is None:
            return number, Piece(name, 0, 0, 0)
        there, here = fragment.lp_fragment_address, fragment.hp_fragment_address
        return number, Piece(name, there.start, here.start, here.numel)

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


def _padded(parameter: Any) -> int:
    """Size of each rank's range under ZeRO 3. All are equal: the last may reach past the parameter's end."""
    size: int = parameter.ds_tensor.numel()
    return size


def _range_of(parameter: Any) -> tuple[int, int]:
    """(start, count) of this rank's range of a parameter under ZeRO 3; count may be 0 or less."""
    size = _padded(parameter)
    start = size * dist.get_rank(parameter.ds_process_group)
    return start, min(size, parameter.ds_numel - start)


def _own_range(parameter: Any, value: Tensor) -> Tensor:
    """This rank's range of a whole value under ZeRO 3, padded.

    DeepSpeed's setters of whole values refuse one that the ranks do not divide.
    """
    start, count = _range_of(parameter)
    own = value.flatten()[start : start + max(count, 0)]
    return nn.functional.pad(own, (0, _padded(parameter) - own.numel()))
