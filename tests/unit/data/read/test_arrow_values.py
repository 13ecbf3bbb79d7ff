"""The same records from Parquet, from an Arrow stream and from JSON Lines, and values that only Arrow has."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysft.data.formats import Reading, read_record
from raysft.data.read.arrow_values import rows_of
from raysft.data.read.tables import read_arrow, read_parquet
from raysft.data.records import Conversation, Refusal
from raysft.errors import DataError


def tool(name: str, *parameters: str) -> dict[str, Any]:
    properties = {parameter: {"type": "string", "description": f"the {parameter}"} for parameter in parameters}
    schema = {"type": "object", "properties": properties, "required": list(parameters)}
    return {"type": "function", "function": {"name": name, "description": f"{name} it", "parameters": schema}}


def called(name: str, arguments: dict[str, Any], **more: Any) -> dict[str, Any]:
    call = {"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [call], **more}


RECORDS: list[dict[str, Any]] = [
    {
        "messages": [
            {"role": "user", "content": "Weather?"},
            called("weather", {"town": "Oslo"}, reasoning_content="Oslo, then."),
            {"role": "tool", "content": "4 C", "tool_call_id": "c1", "name": "weather"},
            {"role": "assistant", "content": "4 C.", "loss": False},
            {"role": "user", "content": "Thanks"},
            {"role": "assistant", "content": "Bye."},
        ],
        "tools": [tool("weather", "town"), tool("mail", "to", "body")],
    },
    {
        "messages": [
            {"role": "user", "content": "Go"},
            called("now", {}),
            {"role": "tool", "content": "1"},
            called("mail", {"to": "bo", "body": ""}),
        ],
        "tools": [tool("mail", "to", "body"), tool("now")],
    },
    {"messages": [{"role": "assistant", "content": "Hi"}]},
]


def conversation(record: dict[str, Any] | Refusal) -> Conversation:
    assert isinstance(record, dict)
    found = read_record(record, Reading(), id=0, source="s")
    assert not isinstance(found, Refusal), found
    return found[0]


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_records_are_the_same_from_a_table_and_from_json(kind: str, tmp_path: Path) -> None:
    table = pa.Table.from_pylist(RECORDS)
    assert table.to_pylist() != RECORDS, "Arrow pads its structs with nulls"
    path = str(tmp_path / f"data.{kind}")
    if kind == "parquet":
        pq.write_table(table, path)
        found = [record for _, record in read_parquet(path, 0)]
    else:
        with pa.OSFile(path, "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        found = [record for _, record in read_arrow(path, 0, 9)]
    assert [conversation(record) for record in found] == [conversation(json.loads(json.dumps(r))) for r in RECORDS]


DAY = datetime.datetime(2026, 5, 1, 10, 30)
INNER = pa.struct([("z", pa.int8())])
VALUES = [
    (pa.array([DAY], pa.timestamp("ms")), "2026-05-01T10:30:00"),
    (pa.array([DAY], pa.timestamp("us", "UTC")), "2026-05-01T10:30:00+00:00"),
    (pa.array([1777631400000000001], pa.timestamp("ns")), "2026-05-01T10:30:00.000000001"),
    (pa.array([DAY.date()]), "2026-05-01"),
    (pa.array([DAY.time()]), "10:30:00"),
    (pa.array([datetime.timedelta(seconds=3.5)]), "PT3.5S"),
    (pa.array([Decimal("12.50")]), "12.50"),
    (pa.array([b"caf\xc3\xa9"]), "café"),
    (pa.array([b"text"], pa.large_binary()), "text"),
    (pa.array([UUID(int=7).bytes], pa.uuid()), "00000000-0000-0000-0000-000000000007"),
    (pa.array([[("a", DAY.date()), ("b", None)]], pa.map_(pa.string(), pa.date32())), {"a": "2026-05-01", "b": None}),
    (pa.array([[[("a", 1)]]], pa.list_(pa.map_(pa.string(), pa.int64()))), [{"a": 1}]),
    (
        pa.array(
            [{"x": None, "y": {"z": None}}], pa.struct([("x", pa.int8()), ("y", pa.struct([("z", pa.int8())]))])
        ),
        {"y": {}},
    ),
    (pa.array(["a"]).dictionary_encode(), "a"),
    (pa.array([1.5]).cast(pa.float16()), 1.5),
    (pa.array([None], pa.timestamp("ms")), None),
]


@pytest.mark.parametrize(("array", "expected"), VALUES, ids=[str(array.type)[:30] for array, _ in VALUES])
def test_values_become_those_of_json(array: pa.Array, expected: object) -> None:
    (row,) = rows_of(pa.record_batch({"x": array}))
    assert row == {"x": expected}
    json.dumps(row)


@pytest.mark.parametrize(
    "array",
    [
        pa.array([b"\xff\xfe"]),
        pa.array([{"bytes": b"\xff", "path": None}]),
        pa.array([(1, 2, 3)], pa.month_day_nano_interval()),
        pa.array([3_500_000_001], pa.duration("ns")),
        pa.array([[("a", 1), ("a", 2)]], pa.map_(pa.string(), pa.int64())),
    ],
)
def test_a_value_that_is_none_is_refused_by_name_where_it_is_needed(array: pa.Array) -> None:
    (row,) = rows_of(pa.record_batch({"x": array, "text": ["a"]}))
    assert isinstance(row["x"], Refusal)
    assert "`x`" in row["x"].detail
    beside = read_record(row, Reading(), id=0, source="")
    assert not isinstance(beside, Refusal)
    assert [(note.kind, note.name) for note in beside[0].notes] == [("unread", "x")]
    needed = read_record({"instruction": "q", "output": row["x"]}, Reading(), id=0, source="")
    assert isinstance(needed, Refusal)
    assert needed.reason == "unreadable_value"


def test_labels_have_their_names() -> None:
    label = {"_type": "ClassLabel", "names": ["bad", "good"]}
    many = {"_type": "Sequence", "feature": label}
    features = {"label": label, "many": many, "old": [label], "inside": {"label": label}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    columns = {
        "label": [1, -1, 7],
        "many": [[0, 1], [], None],
        "old": [[1], [], []],
        "inside": [{"label": 0}, None, None],
    }
    batch = pa.record_batch(columns).replace_schema_metadata(metadata)
    first, second, third = rows_of(batch)
    assert first == {"label": "good", "many": ["bad", "good"], "old": ["good"], "inside": {"label": "bad"}}
    assert second["label"] is None
    assert isinstance(third["label"], Refusal)
    assert rows_of(batch.replace_schema_metadata({"huggingface": b"{"}))[0]["label"] == 1


def test_two_columns_of_one_name() -> None:
    batch = pa.RecordBatch.from_arrays([pa.array([1]), pa.array([2])], names=["x", "x"])
    with pytest.raises(DataError, match="same name"):
        rows_of(batch)
