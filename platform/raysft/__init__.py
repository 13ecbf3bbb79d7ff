"""raysft fine-tunes language models on Ray clusters: one recipe is one run.

    import raysft

    recipe = raysft.load("gsm8k.yaml", {"train.max_steps": 50})
    raysft.preview(recipe)                # which tokens are trained
    raysft.plan(recipe, "8xH100-80G")     # which layouts fit, how fast
    run = raysft.train(recipe)            # run.evaluation, run.metrics(), run.model(), run.export, run.report

Every name of `__all__` is imported when it is first used (PEP 562), so `import raysft` is fast. See
docs/guide/python.md and, for the house behind it, docs/architecture.md.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raysft.api.verbs import (
        check,
        compare,
        data_report,
        evaluate,
        generate,
        load,
        manifest,
        plan,
        prepare,
        preview,
        study,
        train,
        train_tokenizer,
        tune,
    )
    from raysft.errors import RaysftError, UserError
    from raysft.evaluate.sampling import Sampling
    from raysft.recipe.change import change
    from raysft.recipe.schema import Recipe

__version__ = "0.1.0"

__all__ = [
    "RaysftError",
    "Recipe",
    "Sampling",
    "UserError",
    "change",
    "check",
    "compare",
    "data_report",
    "evaluate",
    "generate",
    "load",
    "manifest",
    "plan",
    "prepare",
    "preview",
    "study",
    "train",
    "train_tokenizer",
    "tune",
]

_HOME = {
    "RaysftError": "raysft.errors",
    "Recipe": "raysft.recipe.schema",
    "Sampling": "raysft.evaluate.sampling",
    "UserError": "raysft.errors",
    "change": "raysft.recipe.change",
}
"""Where a name of `__all__` is made; the others are verbs."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'raysft' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME.get(name, "raysft.api.verbs")), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """This package. A verb stays a verb where a room has its name: importing `raysft.train.loop` would make
    `raysft.train` the room. `from raysft.train.loop import ...` finds rooms without asking here.

    https://docs.python.org/3/reference/datamodel.html#customizing-module-attribute-access
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        """By name: cloudpickle does so with modules, but not with subclasses of theirs."""
        return importlib.import_module, (self.__name__,)


sys.modules[__name__].__class__ = _Package
