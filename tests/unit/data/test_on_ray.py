"""What a task raises arrives as it was raised; no Ray needed to see it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pyarrow as pa
import pytest

from raysft.data.on_ray import Item, _guarded
from raysft.errors import ClusterError, ConflictError, RaysftError, UserError, from_fields


@pytest.mark.parametrize("kind", [UserError, ClusterError, ConflictError])
@pytest.mark.parametrize("num_tables", [0, 1])
def test_an_error_of_ours_is_a_table_with_all_that_it_says(kind: type[RaysftError], num_tables: int) -> None:
    def work(item: Item) -> Iterator[pa.Table]:
        for _ in range(num_tables):
            yield pa.table({"x": [item["n"]]})
        raise kind("it broke", got="a pipe", expected="none", fix="call a plumber")

    *_, last = _guarded(pa.table({"n": [7]}), work)
    (failure,) = last.column("failure").to_pylist()
    error = from_fields(json.loads(failure))
    assert (type(error), error.exit_code) == (kind, 2)
    assert str(error) == str(kind("it broke", got="a pipe", expected="none", fix="call a plumber"))
