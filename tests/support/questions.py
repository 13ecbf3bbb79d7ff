"""Questions that the host puts to a device: each makes it wait for all that is queued there."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_ATEN = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "bincount", "repeat_interleave")
_METHODS = (Tensor.tolist, Tensor.numpy, Tensor.cpu, Tensor.__array__)
_ON_THE_HOST = {"on_host"}
"""Functions whose tensors are the host's, whatever the device of the passes."""


def _asker() -> str | None:
    """file:line of our own code that asks; None: it asks the host."""
    frame, found = sys._getframe(2), ""
    while frame is not None:
        code = frame.f_code
        if code.co_name in _ON_THE_HOST:
            return None
        if not found and "questions.py" not in code.co_filename and "/torch/" not in code.co_filename:
            found = f"{code.co_filename.rpartition('/')[2]}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return found


class _Dispatched(TorchDispatchMode):
    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self._found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().removeprefix("aten::").partition(".")[0]
        by_mask = name in ("index", "index_put_") and any(
            one is not None and one.dtype == torch.bool for one in args[1]
        )
        if (name in _ATEN or by_mask) and (asker := _asker()):
            self._found[f"{name} {asker}"] += 1
        return func(*args, **(kwargs or {}))


class _Called(TorchFunctionMode):
    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self._found = found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _METHODS and (asker := _asker()):
            self._found[f"{func.__name__} {asker}"] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def questions() -> Iterator[Counter[str]]:
    """{question and who asks: how often} of what is done inside, on a CPU."""
    found: Counter[str] = Counter()
    with _Dispatched(found), _Called(found):
        yield found
