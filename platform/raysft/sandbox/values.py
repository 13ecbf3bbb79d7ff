"""Values between the two processes of a test: plain data as JSON, everything else as a number that stands for it.

Pure. What comes from an answer's process is read as data and never run: it has no methods, no `__eq__` of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def encode(value: Any, kept: Callable[[Any], int]) -> Any:
    """As JSON. Subclasses become the plain class, arrays and numbers of numpy lists and numbers.

    kept: the number of a value that is no plain data; may raise.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, list):
        return [encode(one, kept) for one in list.__iter__(value)]
    if isinstance(value, tuple | set | frozenset):
        kind = next(name for name, cls in _COLLECTIONS.items() if isinstance(value, cls))
        return {kind: [encode(one, kept) for one in value]}
    if isinstance(value, dict):
        return {"dict": [[encode(key, kept), encode(one, kept)] for key, one in dict.items(value)]}
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return encode(value.tolist(), kept)
    return {"kept": kept(value)}


def decode(data: Any, found: Callable[[int], Any]) -> Any:
    """The value of what encode() made. found: what a number stands for. Raises ValueError: it is no such thing."""
    if isinstance(data, list):
        return [decode(one, found) for one in data]
    if not isinstance(data, dict):
        return data
    ((kind, content),) = data.items()
    if kind in _COLLECTIONS:
        return _COLLECTIONS[kind](decode(one, found) for one in content)
    if kind == "dict":
        return {decode(key, found): decode(one, found) for key, one in content}
    if kind == "bytes":
        return bytes.fromhex(content)
    if kind == "complex":
        real, imaginary = content
        return complex(real, imaginary)
    if kind != "kept":
        raise ValueError(f"no kind of value: {kind!r}")
    return found(content)


_COLLECTIONS: dict[str, type[Any]] = {"tuple": tuple, "set": set, "frozenset": frozenset}
