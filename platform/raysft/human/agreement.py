"""How far raters agree: Krippendorff's alpha and Cohen's kappa. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import permutations

Distance = Callable[[Sequence[float], int, int], float]
"""(how often each value occurs, places of two values) -> how far apart they are."""


def nominal(counts: Sequence[float], one: int, other: int) -> float:
    """Values are alike or not."""
    return float(one != other)


def ordinal(counts: Sequence[float], one: int, other: int) -> float:
    """Values have an order: the square of how many ratings lie between two (Krippendorff 2011, 'Computing alpha')."""
    low, high = sorted((one, other))
    return (sum(counts[low : high + 1]) - (counts[low] + counts[high]) / 2) ** 2


def alpha(
    units: Sequence[Sequence[Hashable]], values: Sequence[Hashable], distance: Distance = nominal
) -> float | None:
    """Krippendorff's alpha: 1 is perfect, 0 what chance would give. None: nothing to compare, or nothing differs.

    units: what was said of each item, by as many raters as there were. values: all that can be said, in their order.
    """
    place = {value: number for number, value in enumerate(values)}
    together: defaultdict[tuple[int, int], float] = defaultdict(float)
    for unit in units:
        for one, other in permutations([place[value] for value in unit], 2):
            together[one, other] += 1 / (len(unit) - 1)
    counts = [sum(n for (one, _), n in together.items() if one == number) for number in range(len(values))]
    total = sum(counts)
    pairs = [(one, other) for one in range(len(values)) for other in range(len(values))]
    seen = sum(n * distance(counts, one, other) for (one, other), n in together.items())
    by_chance = sum(counts[one] * counts[other] * distance(counts, one, other) for one, other in pairs)
    return 1 - (total - 1) * seen / by_chance if by_chance else None


def kappa(
    pairs: Sequence[tuple[Hashable, Hashable]], values: Sequence[Hashable], *, squared: bool = False
) -> float | None:
    """Cohen's kappa of two raters over the items that both have rated (Cohen 1960, 1968). None: nothing differs.

    squared: values have an order, and being two apart counts four times as much as one.
    """
    place = {value: number for number, value in enumerate(values)}
    firsts, seconds = (Counter(place[pair[side]] for pair in pairs) for side in (0, 1))

    def weight(one: int, other: int) -> float:
        return float((one - other) ** 2 if squared else one != other)

    seen = sum(weight(place[one], place[other]) for one, other in pairs) * len(pairs)
    by_chance = sum(firsts[a] * seconds[b] * weight(a, b) for a in firsts for b in seconds)
    return 1 - seen / by_chance if by_chance else None


def both_rated(one: Mapping[int, Hashable], other: Mapping[int, Hashable]) -> list[tuple[Hashable, Hashable]]:
    """What two raters said of the items that both have rated. {item: what was said} of each."""
    return [(one[item], other[item]) for item in sorted(one.keys() & other.keys())]
