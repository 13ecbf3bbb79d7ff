"""No byte of a part is believed that has not its sum; few groups are kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from token_stores import write

from raysft.data.store.manifest import find_damage
from raysft.data.store.parts import TokenStore
from raysft.errors import DataError


def test_few_groups_are_kept_in_memory(store, monkeypatch):
    opened, _ = store
    opened._files._max_groups = 2
    opened.read_rows(range(opened.num_rows))
    assert len(opened._files._groups) == 2


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path, Path], object]] = {
    "cut": lambda path, other: path.write_bytes(path.read_bytes()[:-9]),
    "emptied": lambda path, other: path.write_bytes(b""),
    "flipped": lambda path, other: flip(path, path.stat().st_size // 3),
    "deleted": lambda path, other: path.unlink(),
    "another's": lambda path, other: path.write_bytes(other.read_bytes()),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_no_row_of_a_damaged_part_is_read(store, tmp_path, damage):
    opened, tables = store
    first, second = (Path(opened.location) / part["name"] for part in opened.manifest["parts"])
    write(str(tmp_path / "other"), tables[1:])
    DAMAGES[damage](first, tmp_path / "other" / first.name)
    fresh = TokenStore.open(opened.location)
    assert fresh.read_rows([fresh.num_rows - 1])[0].num_tokens, "parts that are intact can be read"
    with pytest.raises(DataError, match=r"damaged: .*part-00000\.parquet(.|\n)*raysft prepare"):
        fresh.read_rows([0])
    if damage != "flipped":  # that hit the tokens
        with pytest.raises(DataError, match=r"damaged: .*part-00000\.parquet"):
            fresh.row_sizes()
    assert [name for name, _ in find_damage(opened.location, opened.manifest)] == [first.name]
    assert second.exists()


def test_a_part_that_goes_bad_while_it_is_open_gives_no_other_rows(store):
    """The same file, written into between two steps: its sum was compared when it was opened."""
    opened, _ = store
    path = Path(opened.location) / opened.manifest["parts"][0]["name"]
    good, rows = path.read_bytes(), range(opened.manifest["parts"][0]["rows"])
    right = opened.read_rows(rows)
    told = []
    for place in [None, *range(0, len(good), len(good) // 60)]:
        path.write_bytes(good)
        fresh = TokenStore.open(opened.location)
        fresh.read_rows([0])
        with path.open("r+b") as file:
            if place is None:
                file.truncate(len(good) // 2)
            else:
                file.seek(place)
                file.write(bytes([good[place] ^ 4]))
        try:
            found = fresh.read_rows(rows)
        except DataError as error:
            told.append(error.what)
        else:
            assert place is not None
            for row, expected in zip(found, right, strict=True):
                for name, values in expected.token_fields.items():
                    assert np.array_equal(row.token_fields[name], values)
    assert len(told) > 20
    assert all(path.name in what for what in told)
