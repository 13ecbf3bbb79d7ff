"""What a study's ratings say: of the raters (agreement, gold items) and of the systems (win rates, means). Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from operator import itemgetter
from statistics import median
from typing import Any

from raysft.human.agreement import alpha, both_rated, kappa, nominal, ordinal
from raysft.human.store import Rating
from raysft.human.study import HIGHEST, LOWEST, VERDICTS, Item, Study, is_right
from raysft.metrics.estimate import ratio_interval

SCORES = range(LOWEST, HIGHEST + 1)


@dataclass(frozen=True)
class Share:
    """A mean over ratings, with its 95% interval by bootstrap over items; None: too few."""

    value: float
    low: float | None
    high: float | None
    count: int
    """Ratings."""

    def text(self, shown: Callable[[float], str]) -> str:
        """`62.5% (48.0% to 77.0%), 40 ratings`."""
        interval = (
            f" ({shown(self.low)} to {shown(self.high)})" if self.low is not None and self.high is not None else ""
        )
        return f"{shown(self.value)}{interval}, {self.count} rating{'s' * (self.count != 1)}"


@dataclass(frozen=True)
class RaterFacts:
    """How one rater rates."""

    name: str
    rated: int
    total: int
    gold_right: int
    """Hidden gold items on which the rater is right."""
    gold_rated: int
    training_right: int
    training_rated: int
    median_s: float | None
    """Seconds of an item."""
    left_share: float | None
    """How often the left answer of a pair was the better one, where one was: 50% is expected."""


@dataclass(frozen=True)
class Agreement:
    """How far two raters agree on the items that both have rated."""

    kappa: float | None
    """Cohen's; near 0, however often they agree, where nearly all that they say is one thing."""
    alike: int
    """Items of which they say the same."""
    count: int


@dataclass(frozen=True)
class Results:
    """What a study has come to."""

    raters: tuple[RaterFacts, ...]
    alphas: dict[str, float | None]
    """{criterion, or `verdict`: Krippendorff's alpha over the items whose rating nobody knows}."""
    kappas: dict[tuple[str, str, str], Agreement]
    """{(rater, rater, criterion): how far both agree}."""
    wins: dict[tuple[str, str], Share]
    """{(system, other): share of the ratings that it wins, ties and `both bad` counted half}."""
    means: dict[tuple[str, str], Share]
    """{(system, criterion): mean score}."""
    verdicts: dict[tuple[str, str], dict[str, int]]
    """{(first, second): how often each verdict was given}."""


def results_of(study: Study, raters: Iterable[str], ratings: Sequence[Rating]) -> Results:
    """Everything that is told of these ratings."""
    judged = [one for one in ratings if study.items[one.item].is_judged]
    names = sorted({*raters})
    measures: dict[str, tuple[Callable[[Any], Hashable], Sequence[Hashable]]] = (
        {"verdict": (lambda value: value, VERDICTS)}
        if study.mode == "pairwise"
        else {name: (itemgetter(name), SCORES) for name in study.criteria}
    )
    is_scale = study.mode == "scale"
    alphas, kappas = {}, {}
    for measure, (read, values) in measures.items():
        said: dict[str, dict[int, Hashable]] = {name: {} for name in names}
        for one in judged:
            said[one.rater][one.item] = read(one.value)
        units = [[of[item] for of in said.values() if item in of] for item in {one.item for one in judged}]
        alphas[measure] = alpha(units, values, ordinal if is_scale else nominal)
        for first, second in combinations(names, 2):
            pairs = both_rated(said[first], said[second])
            alike = sum(one == other for one, other in pairs)
            kappas[first, second, measure] = Agreement(kappa(pairs, values, squared=is_scale), alike, len(pairs))
    by_pair: dict[tuple[str, str], list[Rating]] = defaultdict(list)
    for one in judged:
        if not is_scale:
            first, second = study.items[one.item].systems
            by_pair[first, second].append(one)
    return Results(
        tuple(_rater(study, name, [one for one in ratings if one.rater == name]) for name in names),
        alphas,
        kappas,
        {pair: _mean([(one.item, _WON[one.value]) for one in found]) for pair, found in by_pair.items()},
        _means(study, judged) if is_scale else {},
        {pair: {v: sum(one.value == v for one in found) for v in VERDICTS} for pair, found in by_pair.items()},
    )


_WON = {"first": 1.0, "second": 0.0, "tie": 0.5, "both_bad": 0.5}


def _means(study: Study, judged: Sequence[Rating]) -> dict[tuple[str, str], Share]:
    found: dict[tuple[str, str], list[tuple[int, float]]] = defaultdict(list)
    for one in judged:
        for name, score in one.value.items():
            found[study.items[one.item].systems[0], name].append((one.item, float(score)))
    return {key: _mean(values) for key, values in sorted(found.items())}


def _mean(values: Sequence[tuple[int, float]]) -> Share:
    """values: (item, number) of each rating. Ratings of one item are drawn together: they are not independent."""
    by_item: dict[int, list[float]] = defaultdict(list)
    for item, value in values:
        by_item[item].append(value)
    low, high = ratio_interval([(sum(found), len(found)) for found in by_item.values()])
    return Share(sum(value for _, value in values) / len(values), low, high, len(values))


def _rater(study: Study, name: str, ratings: Sequence[Rating]) -> RaterFacts:
    def right(is_training: bool) -> tuple[int, int]:
        of: list[tuple[Item, Rating]] = [(study.items[one.item], one) for one in ratings]
        known = [(item, one) for item, one in of if not item.is_judged and item.is_training == is_training]
        return sum(is_right(item, one.value) for item, one in known), len(known)

    said = [study.said_of(name, one.item, one.value) for one in ratings] if study.mode == "pairwise" else []
    sides = [side for side in said if side in ("left", "right")]
    return RaterFacts(
        name,
        len(ratings),
        len(study.items),
        *right(False),
        *right(True),
        median(one.seconds for one in ratings) if ratings else None,
        sides.count("left") / len(sides) if sides else None,
    )


def result_lines(study: Study, found: Results) -> list[str]:
    """For a terminal."""
    num_judged = sum(item.is_judged for item in study.items)
    lines = [f"study        {num_judged} items, {len(study.items) - num_judged} gold items, {study.mode}"]
    for rater in found.raters:
        told = [f"{rater.rated} of {rater.total} rated"]
        told += [f"hidden gold {rater.gold_right} of {rater.gold_rated} right"] if rater.gold_rated else []
        told += [f"training {rater.training_right} of {rater.training_rated}"] if rater.training_rated else []
        told += [f"{rater.median_s:.1f} s an item"] if rater.median_s is not None else []
        told += [f"left chosen {rater.left_share:.0%}"] if rater.left_share is not None else []
        lines.append(f"rater        {rater.name}: {', '.join(told)}")
    for measure, value in found.alphas.items():
        lines.append(f"agreement    {measure}: Krippendorff's alpha {_number(value)}")
    for (first, second, measure), both in found.kappas.items():
        text = f"alike on {both.alike} of {both.count} items, Cohen's kappa {_number(both.kappa)}"
        lines.append(f"             {measure}: {first} and {second} {text}")
    for (first, second), won in found.wins.items():
        counts = found.verdicts[first, second]
        lines.append(f"win rate     {first} against {second}: {won.text(lambda value: f'{value:.1%}')}")
        lines.append(
            f"             {counts['first']} won, {counts['second']} lost, {counts['tie']} ties, "
            f"{counts['both_bad']} both bad"
        )
    for (system, name), mean in found.means.items():
        lines.append(f"mean score   {system}, {name}: {mean.text(lambda value: f'{value:.2f}')}")
    return lines


def _number(value: float | None) -> str:
    return "not defined: too few ratings, or all alike" if value is None else f"{value:.3f}"
