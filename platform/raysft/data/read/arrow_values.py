"""Arrow columns -> the values that JSON has, so that a record means the same from Parquet as from JSON Lines. Pure.

    struct          an object without its null fields: Arrow gives every struct all fields of its type
    map             an object
    timestamp, date, time, duration   text, as ISO 8601 writes it
    decimal, uuid   text, all digits
    binary          text, where it is UTF-8
    ClassLabel      the label's name, from the features that Hugging Face datasets writes into the schema; -1: null
    everything else with a JSON value is that value
A column's value that cannot be read so is a Refusal in its place: the record is refused where something needs it.
"""

from __future__ import annotations

import datetime
import json
import uuid
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

import pyarrow as pa
from pyarrow import types

from raysft.data.records import Refusal
from raysft.errors import DataError

Convert = Callable[[Any], Any]


class _UnreadableError(Exception):
    """Never leaves this module."""


def rows_of(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """The batch's records. Raises DataError for two columns of one name, and pyarrow's errors for broken text."""
    names = batch.schema.names
    if len(set(names)) < len(names):
        raise DataError(
            "two columns of a table have the same name",
            got=", ".join(sorted({name for name in names if names.count(name) > 1})),
            expected="a name of its own for every column",
            fix="rename one and write the file again",
        )
    features = _features(batch.schema)
    columns = []
    for field, column in zip(batch.schema, batch.columns, strict=True):
        values = column.to_pylist()
        convert = _converter(field.type, features.get(field.name))
        columns.append(values if convert is None else [_converted(value, convert, field) for value in values])
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _converted(value: Any, convert: Convert, field: pa.Field) -> Any:
    if value is None:
        return None
    try:
        return convert(value)
    except _UnreadableError as error:
        return Refusal("unreadable_value", f"a {field.type} in the column `{field.name}`: {error}")


def _features(schema: pa.Schema) -> Mapping[str, Any]:
    """Hugging Face's features by column; none where the schema has none."""
    try:
        found = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _converter(kind: pa.DataType, feature: Any) -> Convert | None:
    """How values of the type become JSON values; None: they are."""
    names = feature.get("names") if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" else None
    if isinstance(names, list) and types.is_integer(kind):
        return lambda value: _label(value, names)
    if types.is_struct(kind):
        return _struct(kind, feature)
    if types.is_map(kind):
        return _map(kind)
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return _converter(kind.value_type, feature)
    if _is_list(kind):
        inner = _converter(kind.value_type, _inner(feature))
        return None if inner is None else lambda value: [None if item is None else inner(item) for item in value]
    if any(is_plain(kind) for is_plain in _PLAIN):
        return None
    return _leaf


_PLAIN = (
    *(types.is_string, types.is_large_string, types.is_string_view, types.is_integer, types.is_floating),
    *(types.is_boolean, types.is_null),
)


def _is_list(kind: pa.DataType) -> bool:
    own = (types.is_list, types.is_large_list, types.is_fixed_size_list, types.is_list_view, types.is_large_list_view)
    return any(is_one(kind) for is_one in own)


def _inner(feature: Any) -> Any:
    """The feature of a list's items."""
    if isinstance(feature, list):
        return feature[0] if feature else None
    return feature.get("feature") if isinstance(feature, dict) else None


def _struct(kind: pa.StructType, feature: Any) -> Convert:
    """An object without null fields. The features of a Sequence of objects are those of a struct of lists."""
    inner = feature if isinstance(feature, dict) else {}
    if isinstance(inner.get("_type"), str):
        items = _inner(feature)
        inner = {name: [item] for name, item in items.items()} if isinstance(items, dict) else {}
    fields = {field.name: _converter(field.type, inner.get(field.name)) for field in kind}
    special = {name: convert for name, convert in fields.items() if convert is not None}

    def convert(value: dict[str, Any]) -> dict[str, Any]:
        if None in value.values():
            value = {name: item for name, item in value.items() if item is not None}
        for name, own in special.items():
            if name in value:
                value[name] = own(value[name])
        return value

    return convert


def _map(kind: pa.MapType) -> Convert:
    key = _converter(kind.key_type, None) or str
    own = _converter(kind.item_type, None)

    def convert(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
        found = {str(key(name)): own(item) if own is not None and item is not None else item for name, item in pairs}
        if len(found) < len(pairs):
            raise _UnreadableError(f"a key occurs twice: {pairs!r}"[:120])
        return found

    return convert


def _label(value: int, names: list[Any]) -> str | None:
    if value == -1:
        return None
    if not 0 <= value < len(names):
        raise _UnreadableError(f"{value} is none of the {len(names)} labels {names!r}"[:120])
    return str(names[value])


def _leaf(value: Any) -> Any:
    """A value of any other type."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise _UnreadableError(f"{len(value):,} bytes that are no UTF-8 text") from None
    if isinstance(value, datetime.timedelta):
        microseconds = value // datetime.timedelta(microseconds=1)
        if value != datetime.timedelta(microseconds=microseconds):
            raise _UnreadableError(f"{value!r} is finer than a microsecond")
        return f"PT{Decimal(microseconds) / 1_000_000:f}S"
    if isinstance(value, datetime.date | datetime.time):  # a datetime is a date
        return value.isoformat()
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, uuid.UUID):
        return str(value)
    raise _UnreadableError(f"no JSON value for {value!r}"[:120])
