"""A manifest is believed when it has its own sum, its version and its store."""

from __future__ import annotations

from pathlib import Path

import pytest
from token_stores import examples, write

from raysft.data.store.manifest import read_manifest, write_manifest
from raysft.data.store.parts import TokenStore
from raysft.errors import DataError, StorageError


def test_no_manifest_is_no_store(tmp_path):
    location = str(tmp_path / "store")
    write(location, [examples(5, 1)])
    assert read_manifest(location) is None
    with pytest.raises(StorageError, match="no token store"):
        TokenStore.open(location)


def test_a_store_of_another_version_is_none(tmp_path):
    """It is made anew; a reader says what to do."""
    for text in ('{"format_version": 2, "parts": [], "max_tokens": 8}',):
        (tmp_path / "manifest.json").write_text(text)
        assert read_manifest(str(tmp_path)) is None
        with pytest.raises(StorageError, match=r"no token store(.|\n)*raysft prepare"):
            TokenStore.open(str(tmp_path))


@pytest.mark.parametrize("bit", range(0, 4000, 97))
def test_a_manifest_with_a_flipped_bit_is_no_manifest(store, bit):
    opened, _ = store
    path = Path(opened.location) / "manifest.json"
    data = bytearray(path.read_bytes())
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    path.write_bytes(data)
    try:
        assert read_manifest(opened.location) in (None, opened.manifest)
    except DataError as error:
        assert "manifest.json" in error.what  # noqa: PT017


def test_a_manifest_belongs_to_its_store(tmp_path):
    one, other = (str(tmp_path / (letter * 64)) for letter in "ab")
    for location in (one, other):
        write_manifest(location, {"parts": [], "max_tokens": 8, "fingerprint": location[-64:]})
    assert read_manifest(one)["fingerprint"] == "a" * 64
    Path(other, "manifest.json").write_bytes(Path(one, "manifest.json").read_bytes())
    with pytest.raises(DataError, match=r"damaged(.|\n)*store aaaa"):
        TokenStore.open(other)
