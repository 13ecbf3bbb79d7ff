"""What a file holds, by the end of its name, in small letters or capitals."""

from __future__ import annotations

from raysft.data.read.readers import KINDS
from raysft.data.read.remote import COMPRESSIONS, compression, without_query
from raysft.errors import DataError

_UNCOMPRESSED = ("parquet", "arrow")  # they compress inside
KNOWN_KINDS = (
    f"files that end in {', '.join(f'.{kind}' for kind in KINDS)}; "
    f"all but {' and '.join(_UNCOMPRESSED)} also in {', '.join(COMPRESSIONS)}"
)


def data_kind(path: str) -> str | None:
    """One of KINDS, by the suffix before that of a compression; None: no known one."""
    packed = compression(path)
    name = path.rpartition("/")[2]
    stem, _, kind = name[: len(name) - len(packed)].lower().rpartition(".")
    return kind if stem and kind in KINDS and not (packed and kind in _UNCOMPRESSED) else None


def kind_of(location: str) -> str:
    """data_kind of a location. Raises DataError for one that cannot be read."""
    kind = data_kind(without_query(location))
    if kind is None:
        raise DataError(
            f"cannot read {location}",
            got=location.rpartition("/")[2],
            expected=KNOWN_KINDS,
            fix="convert it, or give it the suffix of what it is",
        )
    return kind
