"""One function over many independent pieces, on Ray Data: spread over the nodes, retried when a node is lost.

Stateless tasks, mostly of one CPU: no actor pool that could hold every CPU while something else waits for one, so it
runs on a cluster of any size. Results come in no order. Errors of ours arrive as they were raised.
"""

from __future__ import annotations

import gc
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
import ray.data

from raysft.errors import RaysftError, from_fields, to_fields

logger = logging.getLogger(__name__)

Item = dict[str, Any]
"""A piece of work: numbers, strings and bytes by name."""


@dataclass(frozen=True)
class TaskResources:
    """What a task reserves."""

    cpus: int = 1
    """0: one task at a time beside whatever holds the CPUs."""
    gpus: int = 0
    at_once: int | None = None
    """Tasks at a time; None: as many as there is room for."""
    environment: dict[str, Any] | None = None
    """Ray's runtime environment; None: the driver's."""


ONE_CPU = TaskResources()


def on_ray(
    function: Callable[[Item], Any], items: Sequence[Item], resources: TaskResources = ONE_CPU
) -> Iterator[Any]:
    """function(item) of every item, as JSON values, as they are done. Raises what the function raised."""
    by_node: Counter[str] = Counter()
    for table in tables_on_ray(_Call(function), items, ordered=False, resources=resources):
        by_node.update(table.column("node").to_pylist())
        for text in table.column("result").to_pylist():
            yield json.loads(text)
    logger.debug("pieces of work by node: %s", json.dumps(by_node))


def tables_on_ray(
    function: Callable[[Item], Iterator[pa.Table]],
    items: Sequence[Item],
    *,
    ordered: bool,
    resources: TaskResources = ONE_CPU,
) -> Iterator[pa.Table]:
    """The tables that function(item) yields; `ordered`: in the order of the items. Bounded by back-pressure."""
    if not items:
        return
    dataset = ray.data.from_items(list(items), override_num_blocks=len(items))
    context = dataset.context
    context.execution_options.preserve_order = ordered
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    guarded: Any = _guarded  # Ray's annotation leaves out fn_args
    most = resources.at_once if resources.cpus else 1
    environment: dict[str, Any] = {} if resources.environment is None else {"runtime_env": resources.environment}
    results = dataset.map_batches(
        guarded,
        batch_size=1,
        batch_format="pyarrow",
        fn_args=(function,),
        zero_copy_batch=True,
        num_cpus=resources.cpus,
        num_gpus=resources.gpus or None,
        compute=None if most is None else ray.data.TaskPoolStrategy(size=min(most, len(items))),
        **environment,
    )
    batches: Any = results.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    for table in batches:
        failures = [text for text in table.column("failure").to_pylist() if text] if len(table) else []
        if failures:
            raise from_fields(json.loads(failures[0]))
        yield table.drop_columns("failure")


class _Call:
    """A function's one result as a table."""

    def __init__(self, function: Callable[[Item], Any]) -> None:
        self._function = function

    def __call__(self, item: Item) -> Iterator[pa.Table]:
        node = ray.get_runtime_context().get_node_id()
        yield pa.table({"result": [json.dumps(self._function(item))], "node": [node]})


def raised_in_task(error: Exception) -> Exception:
    """What a task or an actor raised, without Ray's wrappers, of which each border puts on one."""
    while isinstance(error, ray.exceptions.RayTaskError) and isinstance(error.cause, Exception):
        error = error.cause
    return error


def _guarded(batch: pa.Table, function: Callable[[Item], Iterator[pa.Table]]) -> Iterator[pa.Table]:
    """The tables of one item; an error of ours becomes a table, because Ray would wrap it."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one task, one CPU: that is what Ray counts
    gc.freeze()  # what is imported by now never goes; collections need not look at it
    (item,) = batch.to_pylist()
    shape: pa.Schema | None = None
    try:
        for table in function(item):
            shape = table.schema
            yield table.append_column("failure", pa.nulls(len(table), pa.string()))
    except RaysftError as error:
        failed = pa.table({"failure": [json.dumps(to_fields(error))]})
        for field in shape or ():
            failed = failed.append_column(field, pa.nulls(1, field.type))
        yield failed.select([*(shape.names if shape else ()), "failure"])
