"""Model and optimizer as one object. The only importers of deepspeed.

DeepSpeed's autotuner comes with it, and imports mlflow where that is installed: 0.9 s of the 7 s of CPU that a node's
first worker takes to import all it needs, for nothing that is used here. To it alone, mlflow is not installed.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class _NoneForTheAutotuner(MetaPathFinder):
    """Finds no mlflow while the module of the autotuner is being imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """None, so that it is looked for elsewhere. Raises ModuleNotFoundError."""
        if fullname == "mlflow":
            autotuner = sys.modules.get("deepspeed.autotuning.autotuner")
            if autotuner is not None and "Autotuner" not in vars(autotuner):
                raise ModuleNotFoundError("DeepSpeed's autotuner is not used", name=fullname)
        return None


sys.meta_path.insert(0, _NoneForTheAutotuner())
