"""Model and optimizer as one object. The only importers of deepspeed.

DeepSpeed's autotuner comes with it, and imports mlflow where that is installed: 0.9 s of the 7 s of CPU that a node's
first worker takes to import all it needs, for nothing that is used here. So it is imported first of all, without.
"""

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class _NotFound(MetaPathFinder):
    """Finds no package of this name, as if it were not installed."""

    def __init__(self, name: str) -> None:
        self._name = name

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """None for any other module, so that it is looked for elsewhere. Raises ModuleNotFoundError."""
        if fullname == self._name:
            raise ModuleNotFoundError(f"{fullname} is not imported here", name=fullname)
        return None


@contextmanager
def _without(name: str) -> Iterator[None]:
    """`import name` fails in here, except where it was imported before."""
    finder = _NotFound(name)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


with _without("mlflow"):
    importlib.import_module("deepspeed")
