"""Shards that hold the keys of talks, and what rules over whole data take out of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from raysft.data.records import Conversation, Message
from raysft.data.rules.keys import key_maker
from raysft.data.rules.whole_data import Selection, select
from raysft.recipe.cleaning import Rule


def write(
    folder: Path, name: str, talks: list[tuple[str, str]], first_id: int, rules: list[Rule], **more: Any
) -> str:
    folder.mkdir(exist_ok=True)
    maker = key_maker(rules)
    ids = more.get("ids", range(first_id, first_id + len(talks)))
    conversations = [
        Conversation(i, (Message("user", q), Message("assistant", a))) for i, (q, a) in zip(ids, talks, strict=True)
    ]
    columns = {
        "sample_id": pa.array([c.id for c in conversations], pa.int64()),
        "held_out": pa.array(more.get("held_out", [False] * len(talks)), pa.bool_()),
        **maker.columns(conversations),
    }
    table = pa.table(columns)
    with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=7)
    return str(folder / name)


def run(folder: Path, talks: list[tuple[str, str]], rules: list[Rule], pieces: int = 1, **more: Any) -> Selection:
    size = -(-len(talks) // pieces)
    shards = []
    for number, start in enumerate(range(0, len(talks), size)):
        own = {name: values[start : start + size] for name, values in more.items() if name in ("held_out", "ids")}
        shards.append(write(folder, f"{pieces}-{number}", talks[start : start + size], start, rules, **own))
    return select(shards, more.get("eval_shards", []), rules, out=str(folder / "out"))


def gone(selection: Selection, size: int = 10**9) -> dict[int, tuple[str, int]]:
    return {
        line["shard"] * size + line["row"]: (line["reason"], line["like"]) for line in selection.dropped.to_pylist()
    }
