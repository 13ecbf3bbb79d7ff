"""Ray tasks, run in this process one after the other."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from raysft.data.on_ray import Item


class Tasks:
    """What on_ray does, here; `left` more tasks until the driver is killed."""

    def __init__(self) -> None:
        self.done: list[int] = []
        self.left = 1000

    def __call__(self, function: Callable[[Item], Any], items: Sequence[Item], *_: object) -> Iterator[Any]:
        for item in items:
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            result = json.loads(json.dumps(function(item)))
            self.done.append(item["index"])
            yield result
