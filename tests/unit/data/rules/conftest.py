"""Tasks of the rules over whole data, run in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pytest

from raysft.data.rules import near_duplicates


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def here(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        return (function(item) for item in reversed(items))  # in no order

    def tables(
        function: Callable[[Any], Iterator[pa.Table]], items: Sequence[Any], *, ordered: bool
    ) -> Iterator[pa.Table]:
        return (table for item in reversed(items) for table in function(item))

    monkeypatch.setattr(near_duplicates, "on_ray", here)
    monkeypatch.setattr(near_duplicates, "tables_on_ray", tables)
