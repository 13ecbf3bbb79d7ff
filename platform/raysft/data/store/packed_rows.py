"""Samples <-> packed rows as a table: columns of tokens, segments and atoms by name, as the bytes of their values.

Bytes, because Parquet's lists cost several times as much to write and to read. Each extra column says in the table's
schema what its numbers are, so that rows are read without anything else.
Which samples share a row is packing.py; files are parts.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raysft.errors import PlatformError
from raysft.recipe.columns import Field

TOKEN_FIELDS = ("input_ids", "target")
_TYPES = {
    "token.input_ids": "<i4",
    "token.target": "u1",  # 1: trained
    "segment.length": "<i4",
    "segment.sample_id": "<i8",
    "segment.weight": "<f4",
    "segment.atom": "<i4",
}
"""The columns of every table."""

Array = NDArray[Any]


@dataclass(frozen=True)
class Row:
    """One packed row: arrays [values], or [values, width] where a value has several numbers."""

    token_fields: dict[str, Array]
    """An entry per token."""
    segment_fields: dict[str, Array]
    """An entry per segment, with `length` (tokens), `sample_id` and `atom`: its number in the row. Segments of one
    atom belong together."""
    atom_fields: dict[str, Array] = field(default_factory=dict)
    """An entry per atom."""

    @property
    def num_tokens(self) -> int:
        return int(self.segment_fields["length"].sum())


@dataclass(frozen=True)
class _Order:
    """Where the lines of samples lie in packed rows."""

    lines: NDArray[np.int64]
    """[segments]: the line of each."""
    begins: NDArray[np.bool_]
    """[segments]: it is the first of its atom."""

    @classmethod
    def of(cls, lines: Sequence[NDArray[np.int64]], atoms: NDArray[np.int64]) -> _Order:
        order = np.concatenate(lines)
        begins = first_of_atoms(atoms[order])
        begins[np.cumsum([0, *map(len, lines[:-1])])] = True
        return cls(order, begins)


def pack_rows(samples: pa.Table, lines: Sequence[NDArray[np.int64]], fields: Sequence[Field] = ()) -> pa.Table:
    """Packed rows as a table: fields of tokens, segments and atoms as the bytes of their values, `row.*` as numbers.

    `samples` has one line per segment: sample_id, weight, the token fields as lists, `fields` by name (see
    sample_values), and `atom` where atoms have several segments (see atoms_of). `lines` lists, for every row, the
    lines in it, those of an atom behind each other.
    """
    order = _Order.of(lines, atoms_of(samples))
    in_row = np.fromiter(map(len, lines), dtype=np.int64, count=len(lines))
    row_ends = np.cumsum(in_row)
    starts = row_ends - in_row
    ends_there = np.cumsum(samples.column("input_ids").combine_chunks().value_lengths().to_numpy().astype(np.int64))
    lengths = np.diff(ends_there, prepend=0)[order.lines]
    places = segment_places(ends_there[order.lines] - lengths, lengths)
    token_ends, atoms = np.cumsum(lengths)[row_ends - 1], np.cumsum(order.begins)
    values = {f"token.{name}": (flat(samples.column(name))[places], token_ends) for name in TOKEN_FIELDS}
    values["segment.length"] = lengths, row_ends
    values["segment.sample_id"] = samples.column("sample_id").to_numpy()[order.lines], row_ends
    values["segment.weight"] = samples.column("weight").to_numpy()[order.lines], row_ends
    values["segment.atom"] = atoms - np.repeat(atoms[starts], in_row), row_ends
    columns = {name: _bytes(array.astype(_TYPES[name], copy=False), ends) for name, (array, ends) in values.items()}
    columns["row.tokens"] = pa.array(np.add.reduceat(lengths, starts))
    columns["row.squares"] = pa.array(np.add.reduceat(lengths**2, starts))
    rows = pa.table(columns)
    for one in fields:
        found = sample_values(samples, one)
        match one.per:
            case "token":
                packed, ends = found[places], token_ends
            case "segment":
                packed, ends = found[order.lines], row_ends
            case "atom":
                packed, ends = found[_atom_numbers(samples)[order.lines[order.begins]]], atoms[row_ends - 1]
        rows = rows.append_column(_told(one), _large_bytes(packed, ends))
    return rows


def columns_of(rows: Sequence[Row], fields: Sequence[Field], values: Mapping[str, Array]) -> pa.Table:
    """Further columns of packed rows, as pack_rows writes them. values: of all rows behind each other, by name.

    Raises PlatformError where their number is not that of the rows' tokens, segments or atoms.
    """
    lengths = {
        "token": [row.num_tokens for row in rows],
        "segment": [len(row.segment_fields["length"]) for row in rows],
        "atom": [int(row.segment_fields["atom"][-1]) + 1 for row in rows],
    }
    columns = []
    for one in fields:
        ends, found = np.cumsum(lengths[one.per], dtype=np.int64), values[one.name].astype(one.dtype, copy=False)
        wanted = (ends[-1],) if one.width == 1 else (ends[-1], one.width)
        if found.shape != wanted:
            raise PlatformError(
                f"a column does not fit its rows: {one.name}",
                got=f"values of shape {found.shape}",
                expected=f"{wanted}",
                fix="report it: this is a fault of what made the column",
            )
        columns.append(_large_bytes(found, ends))
    return pa.table(columns, schema=pa.schema([_told(one) for one in fields]))


def _told(field: Field) -> pa.Field:
    """A further column, which says what its numbers are."""
    return pa.field(field.column, pa.large_binary(), metadata={"dtype": field.dtype, "width": str(field.width)})


def unpack_rows(rows: pa.Table, order: NDArray[np.int64], fields: Sequence[Field] = ()) -> dict[str, Array]:
    """{name: values} of the samples that the rows were packed of, flat, in the samples' order: the token fields, and
    `fields` as sample_values gives them. order[i] is the line of segment i."""
    lengths = values_of(rows, "segment.length").astype(np.int64)
    back = np.argsort(order)
    places = segment_places((np.cumsum(lengths) - lengths)[back], lengths[back])
    found = {name: values_of(rows, f"token.{name}")[places] for name in TOKEN_FIELDS}
    for one in fields:
        values = values_of(rows, one.column)
        match one.per:
            case "token":
                found[one.name] = values[places]
            case "segment":
                found[one.name] = values[back]
            case "atom":
                found[one.name] = values[np.argsort(order[first_of_atoms(packed_atoms(rows))])]
    return found


def packed_atoms(rows: pa.Table) -> NDArray[np.int64]:
    """[segments]: the number of each one's atom, over all rows."""
    atoms = values_of(rows, "segment.atom").astype(np.int64)
    is_new = first_of_atoms(atoms)
    column = rows.column("segment.atom").combine_chunks()
    row_starts = np.cumsum([0, *(row.as_buffer().size // 4 for row in column)])[:-1]
    is_new[row_starts] = True
    return np.cumsum(is_new) - 1


def atoms_of(samples: pa.Table) -> NDArray[np.int64]:
    """[lines]: the atom of each, from the column `atom`, where neighbours have one number; without it each is one.

    Raises PlatformError.
    """
    if "atom" not in samples.column_names:
        return np.arange(len(samples))
    atoms: NDArray[np.int64] = samples.column("atom").to_numpy().astype(np.int64)
    if len(np.unique(atoms)) != np.count_nonzero(first_of_atoms(atoms)):
        raise PlatformError(
            "the samples of an atom do not stand together",
            got="a number in the column `atom` that comes again",
            expected="lines of an atom behind each other",
            fix="report it: this is a fault of what made the samples",
        )
    return atoms


def first_of_atoms(atoms: NDArray[np.int64]) -> NDArray[np.bool_]:
    """[lines]: is the line the first of its atom? From the atom of each line."""
    begins = np.ones(len(atoms), dtype=np.bool_)
    begins[1:] = atoms[1:] != atoms[:-1]
    return begins


def sample_values(samples: pa.Table, field: Field) -> Array:
    """The values of a field in the samples' order: [tokens], [lines] or [atoms]; [.., width] where that is over 1.

    In the table a token's or a wide value is in lists; a value of an atom stands on each of its lines.
    Raises PlatformError.
    """
    column = samples.column(field.name)
    values = flat(column) if pa.types.is_list(column.type) else column.to_numpy()
    values = np.ascontiguousarray(values.astype(field.dtype, copy=False))
    if field.width > 1:
        values = values.reshape(-1, field.width)
    wanted = len(samples) if field.per != "token" else len(flat(samples.column("input_ids")))
    if len(values) != wanted or field.column in _TYPES:
        raise PlatformError(
            f"a column of the samples does not fit: {field.name}",
            got=f"{len(values)} values of width {field.width}",
            expected=f"{wanted}: one per {field.per if field.per != 'atom' else 'segment'}, of a name that is free",
            fix="report it: this is a fault of what made the samples",
        )
    if field.per == "atom":
        return values[first_of_atoms(atoms_of(samples))]
    return values


def _atom_numbers(samples: pa.Table) -> NDArray[np.int64]:
    """[lines]: 0, 1, ... by atoms."""
    return np.cumsum(first_of_atoms(atoms_of(samples))) - 1


def segment_places(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int32]:
    """Where the values of segments lie, one segment after the other: starts[0], starts[0] + 1, ..."""
    shift = starts - (np.cumsum(lengths) - lengths)
    places = np.arange(int(lengths.sum()), dtype=np.int32)
    places += np.repeat(shift.astype(np.int32), lengths)
    return places


def row_at(rows: pa.Table, index: int, *beside: tuple[pa.Table, int]) -> Row:
    """Row `index` of a table of pack_rows; the mask becomes a weight per token.

    beside: tables of columns_of with more of the same row, and where it is in them.
    """
    fields: dict[str, dict[str, Array]] = {"token": {}, "segment": {}, "atom": {}}
    for table, place in ((rows, index), *beside):
        for column in table.schema:
            group, _, name = column.name.partition(".")
            if group in fields:
                fields[group][name] = _shaped(table.column(column.name)[place].as_buffer(), column)
    weight = np.repeat(fields["segment"]["weight"], fields["segment"]["length"])
    fields["token"]["target"] = fields["token"]["target"] * weight
    return Row(fields["token"], fields["segment"], fields["atom"])


def flat(column: pa.ChunkedArray) -> Array:
    """The values of a column of lists, one after the other."""
    values: Array = column.combine_chunks().flatten().to_numpy()
    return values


def values_of(rows: pa.Table, name: str) -> Array:
    """The values of a column of bytes, of all rows one after the other."""
    column = rows.column(name).combine_chunks()
    kind = np.int64 if pa.types.is_large_binary(column.type) else np.int32
    offsets = np.frombuffer(column.buffers()[1], kind)[column.offset : column.offset + len(column) + 1]
    data = column.buffers()[2]
    return _shaped(b"" if data is None else memoryview(data)[offsets[0] : offsets[-1]], rows.schema.field(name))


def most_segments(rows: pa.Table) -> int:
    """Segments of the row that has most of them; 0 without rows. Needs no column but their lengths."""
    width = np.dtype(_TYPES["segment.length"]).itemsize
    return (pc.max(pc.binary_length(rows.column("segment.length"))).as_py() or 0) // width


def _shaped(data: Any, column: pa.Field) -> Array:
    """Bytes -> values, as the column says."""
    facts: Mapping[bytes, bytes] = column.metadata or {}
    values = np.frombuffer(data, dtype=_TYPES.get(column.name) or facts[b"dtype"].decode())
    width = int(facts.get(b"width", b"1"))
    return values if width == 1 else values.reshape(-1, width)


def _bytes(values: Array, ends: NDArray[np.int64]) -> pa.Array:
    """An array of binaries: values up to each end, in their machine form (little-endian)."""
    offsets = np.concatenate((np.zeros(1, np.int32), (ends * values.itemsize).astype(np.int32)))
    data = pa.py_buffer(np.ascontiguousarray(values))
    return pa.Array.from_buffers(pa.binary(), len(ends), [None, pa.py_buffer(offsets), data])


def _large_bytes(values: Array, ends: NDArray[np.int64]) -> pa.Array:
    """As _bytes, of wide values: with offsets that do not end at 2 GiB."""
    size = values.itemsize * (values.shape[1] if values.ndim > 1 else 1)
    offsets = np.concatenate((np.zeros(1, np.int64), (ends * size).astype(np.int64)))
    data = pa.py_buffer(np.ascontiguousarray(values))
    return pa.Array.from_buffers(pa.large_binary(), len(ends), [None, pa.py_buffer(offsets), data])


def lists(flat: pa.Array, ends: NDArray[np.int64]) -> pa.Array:
    """An array of lists that end at `ends` of `flat`."""
    offsets = np.concatenate((np.zeros(1, dtype=np.int32), ends.astype(np.int32)))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), flat)
