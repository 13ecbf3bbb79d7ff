"""Weights that are made and not read: any range of them by the seed and the parameter's name alone (decision 074).

transformers' own initialisation runs on parameters without memory (torch's meta device), and what it does to each is
noted: draw, fill, scale, copy a computed tensor into a part. The notes are then played on blocks of fixed size, so a
range of a parameter is the same numbers whoever makes it. Buffers are there, made by the same initialisation.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel
from transformers.initialization import TORCH_INIT_FUNCTIONS

from raysft.model.stored import rows_of_part

BLOCK = 2**15
"""Elements of a block: as many as torch computes in one thread. Another size makes another model: then raise
FRESH_WEIGHTS (recipe/fingerprint.py)."""
_ROWS = 2**20
"""Elements of the rows that are made at a time of a tensor that is cut along another axis than the first."""
_WORDS, _FIRST_WORD = 624, 3
"""Words of a twister's state, and where they begin in that of torch's generator: each is 8 bytes there."""
_FILLS = (torch.ops.aten.zero_.default, torch.ops.aten.fill_.Scalar, torch.ops.aten.fill_.Tensor)
_SILENT = ("dirac_", "orthogonal_", "sparse_")
"""torch.nn.init does nothing on the meta device in these, and in trunc_normal_."""
_META = torch.device("meta")


class UnknownStepError(Exception):
    """Why the weights of a model cannot be made by ranges."""


@dataclass(frozen=True)
class Step:
    """One thing that initialisation does to elements start .. stop of a flat tensor."""

    act: Callable[..., object]
    """In place, element by element."""
    arguments: tuple[Any, ...]
    start: int
    stop: int
    is_random: bool
    is_copy: bool = False
    """arguments[0] is a flat tensor of stop - start elements."""

    @property
    def forgets(self) -> bool:
        """Does nothing of what was there before matter?"""
        return self.is_random or self.is_copy or self.act in _FILLS

    def play(self, block: Tensor, first: int, generator: Callable[[], torch.Generator]) -> None:
        """On a block that begins at element `first`."""
        start, stop = max(self.start, first), min(self.stop, first + block.numel())
        if start >= stop:
            return
        part = block[start - first : stop - first]
        if self.is_copy:
            part.copy_(self.arguments[0][start - self.start : stop - self.start])
        elif self.is_random:
            self.act(part, *self.arguments, generator=generator())
        else:
            self.act(part, *self.arguments)


@dataclass(frozen=True)
class FreshTensor:
    """A parameter in fp32 that is made when it is asked for, always on the CPU."""

    seed: int
    name: str
    shape: torch.Size
    steps: tuple[Step, ...]

    def read(self, into: Tensor, start: int = 0) -> None:
        """See StoredTensor.read."""
        done = 0
        while done < into.numel():
            number, first = divmod(start + done, BLOCK)
            block = self._block(number)
            piece = into[done : done + len(block) - first]
            piece.copy_(block[first : first + len(piece)])
            done += len(piece)

    def read_part(self, into: Tensor, axis: int, start: int) -> None:
        """See StoredTensor.read_part."""
        rows, step, first = rows_of_part(self.shape, into, axis, start)
        if len(rows) == 1:
            self.read(rows[0], first)
            return
        for number, some in enumerate(rows.split(count := max(1, _ROWS // step))):
            whole = torch.empty(len(some), step)
            self.read(whole.view(-1), number * count * step)
            some.copy_(whole[:, first : first + some.shape[1]])

    def _block(self, number: int) -> Tensor:
        """[BLOCK], or what is left of the tensor."""
        first = number * BLOCK
        block = torch.empty(min(BLOCK, self.shape.numel() - first))
        for order, one in enumerate(self.steps):
            one.play(block, first, lambda order=order: self._generator(number, order))  # type: ignore[misc]
        return block

    def _generator(self, block: int, order: int) -> torch.Generator:
        return generator_of(f"{self.seed}/{self.name}/{block}/{order}")


def generator_of(key: str) -> torch.Generator:
    """torch's Mersenne twister, all words of its state from the key: torch's own seeds have 32 bits that count, and
    among the million blocks of a large model two would be the same."""
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    words = np.frombuffer(hashlib.shake_128(key.encode()).digest(4 * _WORDS), np.uint32)
    state.numpy().view(np.uint64)[_FIRST_WORD : _FIRST_WORD + _WORDS] = words
    return generator.set_state(state)


_RECORDING = threading.Lock()
"""What torch and transformers have one of in a process is changed meanwhile."""


def record(make: Callable[[], PreTrainedModel], seed: int) -> tuple[PreTrainedModel, dict[str, FreshTensor]]:
    """A model whose parameters are on the meta device, and what each is made of; tied ones under each of their names.

    make: builds and initialises it on the CPU in fp32. Raises UnknownStepError, and what `make` raises.
    """
    notes = _Notes()
    with _RECORDING, _loud(notes), notes:
        hook: Any = notes.take
        handle = register_module_parameter_registration_hook(hook)
        try:
            model = make()
        finally:
            handle.remove()
    if lost := [name for name, buffer in model.named_buffers() if buffer.is_meta]:
        raise UnknownStepError(f"{lost[0]} is computed from its weights")
    first: dict[nn.Parameter, FreshTensor] = {}
    found: dict[str, FreshTensor] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter not in first:
            first[parameter] = FreshTensor(seed, name, parameter.shape, notes.steps_of(name, parameter))
        found[name] = first[parameter]
    return model, found


def put(model: nn.Module, value: Callable[[str, nn.Parameter], Tensor]) -> None:
    """Give each parameter that is on the meta device a tensor; tied ones stay tied. value: called with its first
    name."""
    for name, parameter in list(model.named_parameters()):
        if parameter.is_meta:
            torch.utils.swap_tensors(parameter, nn.Parameter(value(name, parameter), parameter.requires_grad))


class _Notes(TorchDispatchMode):
    """What was done to each parameter. Inside, parameters have no memory; all other tensors are as they would be."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._thread = threading.get_ident()
        self._found: dict[torch.UntypedStorage, list[Step | str]] = {}
        """{storage of a parameter: its steps; a text is one that is not known}."""

    def take(self, module: nn.Module, name: str, parameter: nn.Parameter) -> nn.Parameter | None:
        """The parameter without memory. A hook of torch."""
        if parameter.is_meta or threading.get_ident() != self._thread:
            return None
        empty = nn.Parameter(torch.empty_like(parameter, device=_META), parameter.requires_grad)
        vars(empty).update(vars(parameter))
        self._found[empty.untyped_storage()] = [] if type(parameter) is nn.Parameter else [type(parameter).__name__]
        return empty

    def steps_of(self, name: str, parameter: nn.Parameter) -> tuple[Step, ...]:
        """The steps that make it. Raises UnknownStepError."""
        size, steps = parameter.numel(), list[Step]()
        for one in self._found.get(parameter.untyped_storage(), ["no initialisation of transformers"]):
            if isinstance(one, str):
                raise UnknownStepError(f"{name} is made by {one}")
            if one.forgets and (one.start, one.stop) == (0, size):
                steps.clear()
            steps.append(one)
        is_plain = parameter.dtype == torch.float32 and parameter.is_contiguous() and size > 0
        if not is_plain or not steps or not steps[0].forgets or (steps[0].start, steps[0].stop) != (0, size):
            raise UnknownStepError(f"{name} is not initialised as a whole")
        return tuple(steps)

    def note(self, target: Tensor, step: Step | str) -> None:
        """A step on a parameter, or on a contiguous part of it; step: of `target` as if it were the whole."""
        if isinstance(step, Step):
            is_part = target.is_contiguous() and target.dtype == torch.float32
            offset = int(target.storage_offset())
            step = replace(step, start=offset, stop=offset + target.numel()) if is_part else "parts of its axes"
        self._found[target.untyped_storage()].append(step)

    def knows(self, value: object) -> TypeGuard[Tensor]:
        """Is it a parameter, or a view of one?"""
        return isinstance(value, Tensor) and value.is_meta and value.untyped_storage() in self._found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if kwargs.get("device") == _META and not any(isinstance(one, Tensor) for one in args):
            kwargs = kwargs | {"device": "cpu"}  # numbers of their own that are put where a parameter lies
        written = list(_written(func, args, kwargs))
        known = [one for one in written if self.knows(one)]
        if not known:
            return func(*args, **kwargs)
        if len(written) == 1 and written[0] is args[0]:
            self.note(known[0], _step(func, known[0], args[1:], kwargs))
            return known[0]
        for one in known:
            self.note(one, str(func))
        return func(*args, **kwargs)


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[object]:
    """The tensors that an operation writes to."""
    for number, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[number] if number < len(args) else kwargs.get(argument.name)
            yield from value if isinstance(value, list | tuple) else [value]


def _step(func: Any, target: Tensor, arguments: tuple[Any, ...], kwargs: dict[str, Any]) -> Step | str:
    """What an in-place operation of aten does, its place left out; a text where it cannot be played on a part."""
    tensors = [one for one in arguments if isinstance(one, Tensor)]
    is_random = torch.Tag.nondeterministic_seeded in func.tags
    if func is torch.ops.aten.copy_.default and not tensors[0].is_meta:
        values = tensors[0].detach().to(torch.float32).expand(target.shape).reshape(-1).clone()
        return Step(func, (values,), 0, 0, is_random=False, is_copy=True)
    is_known = is_random or torch.Tag.pointwise in func.tags or func in _FILLS
    if not is_known or any(one.is_meta or one.ndim for one in tensors) or kwargs.get("generator") is not None:
        return str(func)
    if kwargs.keys() - {"generator"}:
        return str(func)
    return Step(func, arguments, 0, 0, is_random)


@contextmanager
def _loud(notes: _Notes) -> Iterator[None]:
    """Inside, what torch.nn.init leaves out on the meta device is noted, too."""
    functions: dict[str, Any] = TORCH_INIT_FUNCTIONS
    plain: dict[str, Callable[..., Tensor]] = dict(functions)

    def truncated(
        tensor: Tensor,
        mean: float = 0.0,
        std: float = 1.0,
        a: float = -2.0,
        b: float = 2.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        if not notes.knows(tensor):
            return plain["trunc_normal_"](tensor, mean, std, a, b, generator)
        notes.note(tensor, Step(nn.init.trunc_normal_, (mean, std, a, b), 0, 0, is_random=True))
        return tensor

    def silent(name: str) -> Callable[..., Tensor]:
        def act(tensor: Tensor, *arguments: Any, **keywords: Any) -> Tensor:
            if not notes.knows(tensor):
                return plain[name](tensor, *arguments, **keywords)
            notes.note(tensor, name)
            return tensor

        return act

    functions.update({"trunc_normal_": truncated} | {name: silent(name) for name in _SILENT})
    try:
        yield
    finally:
        functions.update(plain)
