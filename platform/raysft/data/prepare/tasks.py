"""What the tasks of a prepare do on the cluster, and what each is told. They import no model library.

Functions of an Item of numbers and bytes; what is the same for all tasks of a kind comes with the function.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from raysft.data.on_ray import Item
from raysft.data.prepare.encode import EncodeStage, encode_task
from raysft.data.prepare.write_shards import count_batch, write_shard
from raysft.data.read.sources import ReadTask, SourceFile
from raysft.data.store.shards import Summary, new_summary
from raysft.data.store.windows import Contents, write_window
from raysft.data.text.fitting import COUNTED


def shard_item(index: int, task: ReadTask) -> Item:
    """Shard `index` is made of this task."""
    return {"index": index, "file": task.file.index, "start": task.start, "stop": task.stop}


def make_shard(item: Item, *, work: str, files: Sequence[SourceFile], stage: EncodeStage) -> tuple[int, Summary]:
    """(index, what is in the shard)."""
    task = ReadTask(files[item["file"]], item["start"], item["stop"])
    return item["index"], write_shard(work, item["index"], task, stage)


def part_item(index: int, shards: NDArray[np.int64], rows: NDArray[np.int64]) -> Item:
    """Part `index` is packed of the samples (shards[i], rows[i])."""
    return {"index": index, "shards": shards.tobytes(), "rows": rows.tobytes()}


def make_part(
    item: Item, *, location: str, shards: Sequence[str], max_tokens: int, contents: Contents
) -> tuple[int, dict[str, Any]]:
    """(index, the part's entry in the manifest)."""
    samples = (np.frombuffer(item["shards"], np.int64), np.frombuffer(item["rows"], np.int64))
    return item["index"], write_window(location, item["index"], shards, samples, max_tokens, contents)


def count_first(item: Item, *, tasks: Sequence[ReadTask], stage: EncodeStage) -> list[Any]:
    """[summary, [tokens, targets, truncated, *COUNTED]] of the first batches."""
    summary = new_summary()
    names = ("num_tokens", "num_targets", "truncated", *COUNTED)
    totals = [0] * len(names)
    for batch in islice((batch for task in tasks for batch in encode_task(task, stage)), item["batches"]):
        count_batch(summary, batch)
        for place, name in enumerate(names):
            totals[place] += pc.sum(batch.samples.column(name)).as_py() or 0
    return [summary, totals]
