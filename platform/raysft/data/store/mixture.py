"""Which samples make up an epoch, how often, and in which order they are packed. Pure numpy, exact, seeded.

By default each sample comes once, in the order of the sources. Otherwise
  how often   `epochs` of a source, or shares of all samples by `weight` or `temperature` (largest remainders: exact).
              n copies and a rest: n times the source, and the samples of the lowest hash of (seed, sample id)
  groups      then `balance_by` repeats the samples of each group up to the size of the largest group
  in order    by the curriculum's values (samples without one at the end), or else spread: the parts (sources, or
              groups) are merged so that each of them runs evenly through the whole epoch
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from raysft.data.hashing import splitmix64
from raysft.errors import DataError
from raysft.recipe.sections.data import MixtureSection, SourceSection

Indices = NDArray[np.int64]
Number = TypeVar("Number", bound=np.generic)


@dataclass(frozen=True)
class Samples:
    """A line per sample, in the order of the sources. `group` and `key` are read only where the recipe wants them."""

    id: NDArray[np.int64]
    source: NDArray[np.int64]
    """Index of its entry in data.train."""
    length: NDArray[np.int64]
    group: NDArray[np.int64] | None = None
    """Code of its value of mixture.balance_by; below 0: it has none, and is not repeated."""
    key: NDArray[np.float64] | None = None
    """Its value of the curriculum's column; NaN: it has none."""


def sequence(samples: Samples, sources: Sequence[SourceSection], mixture: MixtureSection, seed: int) -> Indices:
    """Lines of `samples` in the order in which they are packed, with repeats. Raises DataError."""
    of_source = [np.flatnonzero(samples.source == number) for number in range(len(sources))]
    counts = source_counts([len(lines) for lines in of_source], sources, mixture)
    parts = [_grow(lines, count, samples.id, seed) for lines, count in zip(of_source, counts, strict=True)]
    plain = mixture.balance_by is None and all(
        np.array_equal(part, lines) for part, lines in zip(parts, of_source, strict=True)
    )
    order = np.arange(len(samples.id)) if plain else _spread(parts)
    if mixture.balance_by is not None:
        has_group = samples.group is not None and bool(np.any(samples.group >= 0))
        group = _wanted(samples.group if has_group else None, mixture.balance_by)
        order = _balance(order, group, samples.id, seed)
    if mixture.curriculum is None:
        return order
    if mixture.curriculum == "length":
        values = samples.length[order].astype(np.float64)
    else:
        has_key = samples.key is not None and not bool(np.all(np.isnan(samples.key)))
        values = _wanted(samples.key if has_key else None, mixture.curriculum)[order]
    return order[np.argsort(-values if mixture.descending else values, kind="stable")]  # NaN sorts last both ways


def source_counts(sizes: Sequence[int], sources: Sequence[SourceSection], mixture: MixtureSection) -> list[int]:
    """Samples of each source in an epoch. Raises DataError where a share is asked of a source without samples."""
    if mixture.temperature is not None:
        return _apportion(sum(sizes), [size ** (1 / mixture.temperature) for size in sizes])
    if all(source.weight is None for source in sources):
        return [round(source.epochs * size) for source, size in zip(sources, sizes, strict=True)]
    for number, (source, size) in enumerate(zip(sources, sizes, strict=True)):
        if source.weight is not None and size == 0:
            raise DataError(
                f"the source {source.name or source.path[0]} has a weight, but no samples",
                got=f"0 usable records in entry {number} of data.train",
                expected="samples, of which its share can be taken",
                fix="see why its records were refused, or take the source out",
            )
    return _apportion(sum(sizes), [source.weight or 0.0 for source in sources])


def _apportion(total: int, weights: Sequence[float]) -> list[int]:
    """`total` in proportion to the weights: rounded down, then one more for the largest remainders."""
    if total == 0:
        return [0] * len(weights)
    exact = [total * weight / sum(weights) for weight in weights]
    counts = [int(share) for share in exact]
    by_remainder = sorted(range(len(weights)), key=lambda number: (counts[number] - exact[number], number))
    for number in by_remainder[: total - sum(counts)]:
        counts[number] += 1
    return counts


def _grow(lines: Indices, count: int, ids: NDArray[np.int64], seed: int) -> Indices:
    """`count` of these lines: all of them as often as they go in, then those of the lowest hash, in their order.

    A line that comes in `lines` more than once is chosen a second time only after all others were chosen.
    """
    if len(lines) == 0:
        return lines
    copies, rest = divmod(count, len(lines))
    by_line = np.argsort(lines, kind="stable")
    _, first, repeats = np.unique(lines[by_line], return_index=True, return_counts=True)
    occurrence = np.empty(len(lines), dtype=np.int64)
    occurrence[by_line] = np.arange(len(lines)) - np.repeat(first, repeats)
    with np.errstate(over="ignore"):
        hashes = splitmix64(ids[lines].astype(np.uint64) + splitmix64(np.uint64(seed)))
    chosen = np.lexsort((hashes, occurrence))[:rest]
    return np.concatenate((np.tile(lines, copies), lines[np.sort(chosen)]))


def _spread(parts: Sequence[Indices]) -> Indices:
    """The parts merged: item i of a part of n stands at (i + 0.5) / n; where two stand alike, the first part's."""
    if not parts:
        return np.zeros(0, dtype=np.int64)
    places = [(np.arange(len(part)) + 0.5) / max(1, len(part)) for part in parts]
    return np.concatenate(parts)[np.argsort(np.concatenate(places), kind="stable")]


def _balance(order: Indices, group: NDArray[np.int64], ids: NDArray[np.int64], seed: int) -> Indices:
    of_group = [order[group[order] == value] for value in np.unique(group[order]) if value >= 0]
    largest = max(map(len, of_group), default=0)
    grown = [_grow(lines, largest, ids, seed) for lines in of_group]
    return _spread([*grown, order[group[order] < 0]])


def _wanted(column: NDArray[Number] | None, name: str) -> NDArray[Number]:
    if column is None:
        raise no_such_column(name)
    return column


def no_such_column(name: str) -> DataError:
    """A rule of the mixture would do nothing: no record has a value in its column."""
    return DataError(
        f"no record has the column {name!r} that data.mixture names",
        got="no value in any record",
        expected=f"records with a column {name!r}",
        fix="correct the name, or take it out of data.mixture",
    )
